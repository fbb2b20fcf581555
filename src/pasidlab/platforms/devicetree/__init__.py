"""Device trees: a blob's nodes and properties, and what they say of IOMMUs and the devices behind them."""

from pasidlab.platforms.devicetree.nodes import DeviceTree, DtNode, read_devicetree
from pasidlab.platforms.devicetree.says import devicetree_says

__all__ = ["DeviceTree", "DtNode", "devicetree_says", "read_devicetree"]
