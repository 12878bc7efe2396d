//! The obol program.
fn main() {}
