use chiaro::gpu::{GpuBackend, GpuOptions, adapters, choose_adapter};
use chiaro::record::{AdapterKind, Backend, Caps, DType};
use chiaro::{ErrorCode, Remedy};

use crate::support::adapter::{open_restricted, test_adapter};

#[test]
fn an_adapter_is_found_by_number_and_by_a_part_of_its_name() {
    let adapter = test_adapter();
    let by_number = choose_adapter(Some(&adapter.index.to_string())).unwrap().unwrap();
    assert_eq!((by_number.index, &by_number.name), (adapter.index, &adapter.name));
    let part = adapter.name[..adapter.name.len().div_ceil(2)].to_uppercase();
    assert!(choose_adapter(Some(&part)).unwrap().unwrap().name.to_uppercase().starts_with(&part));
    assert!(adapters().iter().enumerate().all(|(i, a)| a.index == i && !a.name.is_empty()));
}

#[test]
fn software_is_never_chosen_by_itself() {
    let chosen = choose_adapter(None).unwrap();
    assert!(chosen.is_none_or(|a| a.kind != AdapterKind::Software));
}

#[test]
fn an_unknown_name_is_answered_with_the_list() {
    let error = choose_adapter(Some("no such device")).unwrap_err();
    let there = test_adapter().name;
    let told = error.to_string();
    assert!(told.contains("no such device") && told.contains(&there) && !told.contains("--"), "{told}");
    assert_eq!((error.code(), error.remedies()), (ErrorCode::Request, vec![Remedy::Processor]));
}

#[test]
fn a_restricted_device_has_webgpu_limits_and_no_features() {
    let backend = open_restricted();
    let caps = backend.caps();
    let webgpu = Caps { name: caps.name.clone(), kind: caps.kind, ..Caps::webgpu() };
    assert_eq!(*caps, webgpu);
    let options = GpuOptions { restrict_to_webgpu: true, ..GpuOptions::default() };
    let error = GpuBackend::open(&test_adapter(), DType::F16, options).err().expect("f16 needs a feature");
    assert!(error.code() == ErrorCode::Unsupported && error.to_string().contains("SHADER_F16"), "{error}");
}
