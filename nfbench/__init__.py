"""nfbench: a benchmark of neural functionals, networks whose inputs are the weights of other networks.

Importing this module imports nothing else, so that `python run.py --help` answers at once. Import what you need:
`from nfbench.weightspace import NetworkSpec`, `from nfbench.layers import NPLinear`, `from nfbench.models import NFT`.
"""

__version__ = "0.1.0"
