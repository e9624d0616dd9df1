//! Headless front end.

fn main() {}
