"""How layers multiply integers on each kind of device: one file a kind."""

from dgq.inference.products.products import Products, ProductWeight
from dgq.inference.products.where import products_of

__all__ = ["ProductWeight", "Products", "products_of"]
