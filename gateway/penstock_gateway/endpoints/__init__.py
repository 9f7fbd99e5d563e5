"""HTTP endpoints: the hot one is raw ASGI, the rest are FastAPI routes."""
