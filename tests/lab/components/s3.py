"""One SeaweedFS for each region: an S3 server with authentication, versioning and conditional writes.

Differences from AWS: no bucket replication; If-Match on a missing key answers 412 where AWS says 404.
"""
import urllib.request
from . import constants as c
from .processes import CACHE, program, wait_until

KEYS = {"AWS_ACCESS_KEY_ID": c.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": c.SECRET_KEY}
PORTS = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
         "filer.port.grpc", "admin.port", "admin.port.grpc")


def start(run, ports):
    """`ports` maps region to len(PORTS) ports, the first for S3."""
    weed = program(CACHE / "venv/bin/weed", hint="tests/lab/install.sh")
    for region in c.REGIONS:
        data = run.data / f"s3-{region}"
        data.mkdir()
        flags = [f"-{flag}={port}" for flag, port in zip(PORTS, ports[region])]
        run.spawn(f"s3@{region}", [weed, "mini", f"-dir={data}", f"-ip={run.host(region)}", f"-ip.bind={run.host(region)}",
                                   "-master.telemetry=false",      # on by default
                                   "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", *flags],
                  region=region, cwd=data, env=KEYS)
    found = {}
    for region in c.REGIONS:
        endpoint = f"http://{run.host(region)}:{ports[region][0]}"
        wait_until(lambda e=endpoint: urllib.request.urlopen(e + "/healthz", timeout=2).status == 200,
                   f"S3 in {region}", run=run, process=f"s3@{region}")
        wait_until(lambda: _seed(endpoint, region), f"the bucket in {region}", run=run, process=f"s3@{region}")
        found[region] = {"process": f"s3@{region}", "endpoint": endpoint, "bucket": c.BUCKET[region], "region": region,
                         "access_key_id": c.ACCESS_KEY, "secret_access_key": c.SECRET_KEY}
    return found


def _seed(endpoint, region):
    s3 = client(endpoint, region)
    s3.create_bucket(Bucket=c.BUCKET[region])
    s3.put_object(Bucket=c.BUCKET[region], Key="models/seed.json", Body=b'{"seed": true}')
    return True


def client(endpoint, region):
    return aws_client("s3", endpoint, region)


def aws_client(service, endpoint, region, **config):
    """A boto3 client for the lab, without retries: a test wants to see every answer."""
    import boto3
    from botocore.config import Config
    settings = Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=config.pop("read_timeout", 30),
                      s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    session = boto3.session.Session(aws_access_key_id=c.ACCESS_KEY, aws_secret_access_key=c.SECRET_KEY, region_name=region)
    return session.client(service, endpoint_url=endpoint, config=settings)
