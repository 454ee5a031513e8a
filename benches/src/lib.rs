//! Benchmarks of single layers with criterion: one file in `benches/` for each.
