"""Three daemons, three members of etcd and two whole regions in network namespaces: what breaks, and what has to come of it."""
