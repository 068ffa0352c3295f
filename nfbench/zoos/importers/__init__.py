"""Importers of published zoos, one file a layout; `import_zoo` puts any of them into the HDF5 store."""

from nfbench.zoos.importers.arena import ArenaLayout
from nfbench.zoos.importers.dws import DwsLayout
from nfbench.zoos.importers.folder import FolderLayout
from nfbench.zoos.importers.nfn import NfnLayout
from nfbench.zoos.importers.run import import_zoo
from nfbench.zoos.importers.small_cnn import SmallCnnLayout

__all__ = ["ArenaLayout", "DwsLayout", "FolderLayout", "NfnLayout", "SmallCnnLayout", "import_zoo"]
