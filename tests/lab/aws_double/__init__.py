"""The lab's AWS: moto behind a fault layer, with the gaps that matter for a failover closed.

moto alone is too kind: a promotion changes nothing, Route 53 accepts records that AWS refuses and is always INSYNC, and
ElastiCache changes no roles. `rds`, `route53` and `elasticache` replace those parts; EC2, STS, SES and the rest are
moto's. `faults` records every call and breaks the ones it is told to; `dns_server` answers from the zone's INSYNC state.
Nothing is kept on disk. One process serves all regions: the region of a call is the one it was signed for.
"""
