#![no_main]

#[path = "../targets/data_packet.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
