#![no_main]

#[path = "../targets/replay_window.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
