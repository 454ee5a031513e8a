//! Tests of the workspace as a whole: its layers (`layering.rs`) and its house rules (`tidy.rs`).
