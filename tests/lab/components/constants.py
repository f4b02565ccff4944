"""Names, identifiers and passwords of the lab. The identifiers are the disaster recovery plan's own.

The passwords are constants on purpose: they guard servers on loopback that live for one test.
"""
PRIMARY, SECONDARY = "us-east-1", "us-west-2"
REGIONS = (PRIMARY, SECONDARY)
ROLE = {PRIMARY: "primary", SECONDARY: "secondary"}
THIRD = "eu-west-1"                       # where a third daemon and a third member of etcd stand
COUNCIL = (*REGIONS, THIRD)

# the addresses that api.omnimesh.com has in the plan, and ones on loopback that really answer
PLAN_ADDRESS = {PRIMARY: "52.91.123.45", SECONDARY: "52.123.45.67"}
LOOPBACK_ADDRESS = {PRIMARY: "127.0.1.1", SECONDARY: "127.0.2.1"}
ZONE_ID, ZONE_NAME, API_NAME, TTL = "Z1234567890", "omnimesh.com.", "api.omnimesh.com.", 30
SET_IDENTIFIER = {PRIMARY: "primary", SECONDARY: "secondary"}

DATABASE, APP_USER = "omnimesh_db", "app"
PASSWORDS = {"postgres": "lab-postgres", "app": "lab-app", "failoverd": "lab-failoverd", "replicator": "lab-replicator"}
RDS_INSTANCE = {PRIMARY: "omnimesh-prod-primary", SECONDARY: "omnimesh-prod-replica-us-west-2"}

CACHE_GROUP = {PRIMARY: "omnimesh-prod-us-east-1", SECONDARY: "omnimesh-prod-backup-us-west-2"}
GLOBAL_CACHE_GROUP = "ldgnf-omnimesh-prod"

BUCKET = {PRIMARY: "omnimesh-prod-us-east-1", SECONDARY: "omnimesh-prod-us-west-2"}
ACCESS_KEY, SECRET_KEY, ACCOUNT = "labkey", "labsecret", "123456789012"

NAMESPACE = "omnimesh-core"
WORKLOADS = {"nexus-prime-core": {PRIMARY: 5, SECONDARY: 2},
             "go-node-proxies": {PRIMARY: 10, SECONDARY: 3},
             "ai-agents": {PRIMARY: 20, SECONDARY: 5}}
