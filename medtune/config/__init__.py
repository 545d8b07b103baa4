"""The typed configuration: schema, checks, and the help made from them."""
