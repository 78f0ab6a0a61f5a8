//! Whatever peers say to one node: the stories of `crates/kddm-core/tests/arbitrary_inputs.rs`.
#![no_main]

#[path = "../../crates/kddm-core/tests/one_node/mod.rs"]
mod one_node;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    one_node::tell(bytes);
});
