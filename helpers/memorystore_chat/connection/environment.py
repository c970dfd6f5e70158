"""Where this program runs: asked when an error is worded, and by the notebooks."""

import os
import sys
from enum import StrEnum


class Environment(StrEnum):
    """Where a notebook can run; each member is the name to show."""

    COLAB = "Colab"
    COLAB_ENTERPRISE = "Colab Enterprise"
    WORKBENCH = "Agent Platform Workbench (Vertex AI Workbench)"
    LOCAL = "local"


_VERTEX_PRODUCTS = {
    "COLAB_ENTERPRISE": Environment.COLAB_ENTERPRISE,
    "WORKBENCH_INSTANCE": Environment.WORKBENCH,
    "WORKBENCH_CUSTOM_CONTAINER": Environment.WORKBENCH,
}


def detect_environment() -> Environment:
    """Return where this code runs.

    Google's notebook products say their name in ``VERTEX_PRODUCT``. Colab's kernel has
    ``google.colab`` loaded before the first cell; Colab Enterprise has it too, so it comes second.

    Example:
        >>> str(detect_environment())  # doctest: +SKIP
        'local'
    """
    if product := _VERTEX_PRODUCTS.get(os.environ.get("VERTEX_PRODUCT", "")):
        return product
    return Environment.COLAB if "google.colab" in sys.modules else Environment.LOCAL


_WAYS_IN = {
    Environment.LOCAL: (
        "From this machine, go through a jump VM in its network: gcloud compute ssh JUMP_VM "
        "--tunnel-through-iap -- -N -L 6380:ADDRESS:PORT, and connect to 127.0.0.1:6380."
    ),
    Environment.COLAB: (
        "Hosted Colab is on no such network: use Colab Enterprise or Workbench on the instance's "
        'network, a local runtime behind a tunnel, or connect("embedded").'
    ),
    Environment.COLAB_ENTERPRISE: (
        "Use a Colab Enterprise runtime template that names the instance's network and subnetwork."
    ),
    Environment.WORKBENCH: "Use a Workbench instance on the network of the Memorystore instance.",
}


def way_in(*, cluster: bool) -> str:
    """Return in words how to reach a private address, or the nodes of a cluster, from here."""
    here = _WAYS_IN[detect_environment()]
    return here + (" A cluster needs one forward for each node." if cluster else "")
