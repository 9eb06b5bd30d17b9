"""How layers multiply integers on each kind of device: one file a kind."""

from dgq.inference.products.of_device import products_of
from dgq.inference.products.products import Products, ProductWeight

__all__ = ["ProductWeight", "Products", "products_of"]
