"""The management API: a table of endpoints that the aiohttp application and the OpenAPI document both read."""
