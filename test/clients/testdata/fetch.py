"""Fetches a workload's identity with the spiffe package, as an application does.

It prints one JSON object for the first identity and one for each that replaces
it, and ends when its input does.
"""

import hashlib
import json
import sys
import threading

from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import TrustDomain, WorkloadApiClient, X509Source


def digest(certificate):
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def describe(svid, bundle):
    return {
        "id": str(svid.spiffe_id),
        "chain": [digest(c) for c in svid.cert_chain],
        "roots": sorted(digest(c) for c in bundle.x509_authorities),
        "key_matches": svid.private_key.public_key() == svid.leaf.public_key(),
    }


def main():
    address, domain = sys.argv[1], TrustDomain(sys.argv[2])
    printing = threading.Lock()

    def say(what):
        with printing:
            print(json.dumps(what), flush=True)

    with WorkloadApiClient(address) as client:
        once = client.fetch_x509_svid(timeout=30)
        bundles = client.fetch_x509_bundles(timeout=30)
        say(describe(once, bundles.get_bundle_for_trust_domain(domain)))

    with X509Source(socket_path=address, timeout_in_seconds=30) as source:

        def updated():
            context = source.get_x509_context()
            say(describe(context.default_svid, context.x509_bundle_set.get_bundle_for_trust_domain(domain)))

        source.subscribe_for_updates(updated)
        updated()
        sys.stdin.read()


if __name__ == "__main__":
    main()
