# Run by `python -c` with the names of packages: says which version of each this interpreter would import, as one line of JSON.
import json
import sys

sys.path[:] = [entry for entry in sys.path if entry]

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def installed(name):
    try:
        if find_spec(name) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return version(name)
    except PackageNotFoundError:
        return of_its_distribution(name)


def of_its_distribution(name):
    # `grpc` is imported from a package that is called grpcio. Slow, as it reads the lists of all packages.
    try:
        from importlib.metadata import packages_distributions
    except ImportError:
        return "unknown"
    names = packages_distributions().get(name) or []
    return version(names[0]) if len(set(names)) == 1 else "unknown"


print("\npillion-probe:" + json.dumps({name: installed(name) for name in sys.argv[1:]}))
