"""The application of one region: `app_service.py`, with HTTP and HTTPS on the region's own loopback address.

Both regions use the same port numbers on different addresses, so a client that follows the DNS answer
reaches the region that the answer names, as on the real Internet.
"""
import urllib.request
from . import constants as c
from .processes import LAB, python, wait_until


def address(run, region):
    """The region's own, where it has one."""
    return run.host(region) if run.state()["namespaces"] else c.LOOPBACK_ADDRESS[region]


def start(run, authority, ports, databases=None, *, expired=False):
    """`ports` is (http, https). `databases` maps region to a DSN that /health asks; without it /health is always ok."""
    http, https = ports
    for region in c.REGIONS:
        cert, key = authority.issue(f"app-{region}", expired=expired)
        extra = ["--database", databases[region]] if databases else []
        run.spawn(f"app@{region}", [python(), LAB / "app_service.py", "--region", region, "--address", address(run, region),
                                    "--http", http, "--https", https, "--certificate", cert, "--key", key, *extra],
                  region=region)
    found = {}
    for region in c.REGIONS:
        url = f"http://{address(run, region)}:{http}"
        wait_until(lambda u=url: urllib.request.urlopen(u + "/live", timeout=3).status == 200,
                   f"the application in {region}", run=run, process=f"app@{region}")
        found[region] = {"process": f"app@{region}", "address": address(run, region), "http": url, "https": f"https://{address(run, region)}:{https}",
                         "http_port": http, "https_port": https, "ca_file": str(authority.file)}
    return found
