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
        return version(name)
    except PackageNotFoundError:
        return "unknown"
    except (ImportError, ValueError):
        return None


print("\npillion-probe:" + json.dumps({name: installed(name) for name in sys.argv[1:]}))
