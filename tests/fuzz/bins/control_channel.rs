#![no_main]

#[path = "../targets/control_channel.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
