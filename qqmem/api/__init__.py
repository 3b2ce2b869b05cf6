"""The wire: routes, frames, and who may use them."""
