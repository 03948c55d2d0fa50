"""The only package that imports ray: sessions, capacity, the precompute graph, the pool, worker groups, sweeps."""
