"""The AWS double and its DNS server, and a client of its /lab/* requests."""
import json, urllib.request
from . import constants as c
from .processes import LAB, python, wait_until
from .s3 import aws_client

SEED = {"rds", "ec2", "ses"}


def start(run, port, dns_port, *, databases=None, caches=None, cache_layout="pair", addresses=None, timings=None):
    """`databases` and `caches` name the real servers behind RDS instances and replication groups."""
    config = run.folder / "aws-double.json"
    config.write_text(json.dumps({"host": run.host(), "port": port, "dns_port": dns_port, "databases": databases or {}, "caches": caches or {},
                                  "cache_layout": cache_layout, "addresses": addresses or {}, **(timings or {})}))
    run.spawn("aws", [python(), "-m", "aws_double", config], env={"PYTHONPATH": str(LAB), "PYTHONDONTWRITEBYTECODE": "1"})
    double = Double(f"http://{run.host()}:{port}")
    wait_until(lambda: double.get("faults") == [], "the AWS double", run=run, process="aws")
    _seed(double.endpoint)
    double.post("state", {"seeded": True})
    double.post("calls", [])
    return double


def _seed(endpoint):
    """The plan's RDS instances, some EC2 instances, and the sender of its mails; warms moto up at the same time."""
    primary, replica = c.RDS_INSTANCE[c.PRIMARY], c.RDS_INSTANCE[c.SECONDARY]
    for region in c.REGIONS:
        ec2 = aws_client("ec2", endpoint, region)
        ec2.run_instances(ImageId="ami-00000000", InstanceType="m6i.large", MinCount=3, MaxCount=3,
                          TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "cluster", "Value": "omnimesh-prod"}]}])
        aws_client("ses", endpoint, region).verify_email_identity(EmailAddress="disaster-recovery@omnimesh.com")
    aws_client("rds", endpoint, c.PRIMARY).create_db_instance(
        DBInstanceIdentifier=primary, DBInstanceClass="db.r6g.large", Engine="postgres", EngineVersion="15.8", MasterUsername="postgres",
        MasterUserPassword="lab-postgres", AllocatedStorage=100, MultiAZ=True, DBName=c.DATABASE, AvailabilityZone="us-east-1a",
        BackupRetentionPeriod=7)
    aws_client("rds", endpoint, c.SECONDARY).create_db_instance_read_replica(
        DBInstanceIdentifier=replica, SourceDBInstanceIdentifier=f"arn:aws:rds:{c.PRIMARY}:{c.ACCOUNT}:db:{primary}", MultiAZ=False,
        AvailabilityZone="us-west-2a")


class Double:
    """Faults, calls and state of a running double."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def get(self, what):
        return self._call(what)

    def post(self, what, body):
        return self._call(what, json.dumps(body).encode())

    def fail_region(self, region, *, with_route53=False):
        """The region's API stops answering. Route 53 is signed for us-east-1 but survives, unless asked otherwise."""
        self.post("faults/add", [{"region": region, "drop": True, "not_service": [] if with_route53 else ["route53"]}])

    def client(self, service, region):
        return aws_client(service, self.endpoint, region)

    def _call(self, what, body=None):
        request = urllib.request.Request(f"{self.endpoint}/lab/{what}", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
