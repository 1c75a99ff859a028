//! A device of RADV's, for compiling alone.

use std::error::Error;
use std::ffi::{CStr, CString};

use ash::{Entry, Instance, khr, vk};
use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

pub(crate) struct Device {
    pub(crate) name: String,
    /// Whether it has cooperative matrices.
    pub(crate) matrices: bool,
    logical: ash::Device,
    reports: khr::pipeline_executable_properties::Device,
    _instance: Instance,
    _entry: Entry,
}

/// A compiled kernel.
pub(crate) struct Compiled {
    statistics: Vec<(String, u64)>,
    pub(crate) assembly: String,
}

impl Compiled {
    /// # Errors
    /// When the driver reports no statistic of that name: it must not read as 0.
    pub(crate) fn statistic(&self, name: &str) -> Result<u64, String> {
        let found = self.statistics.iter().find(|(known, _)| known == name);
        found
            .map(|&(_, value)| value)
            .ok_or_else(|| format!("the driver reports no {name:?}, only {:?}", self.statistics))
    }
}

fn words(text: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = text.iter().take_while(|&&c| c != 0).map(|c| c.to_ne_bytes()[0]).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Device {
    /// The first device, which the environment makes RADV's.
    pub(crate) fn open() -> Result<Self, Box<dyn Error>> {
        // SAFETY: calls in the order that Vulkan asks for, with structures that live until each call returns; what they make is
        // kept beside what it was made from, and the process ends after its last use.
        unsafe {
            let entry = Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance =
                entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
            let physical =
                *instance.enumerate_physical_devices()?.first().ok_or("no device: run benches/amd/run.sh")?;
            let properties = instance.get_physical_device_properties(physical);
            let name = words(&properties.device_name);
            let known = instance.enumerate_device_extension_properties(physical)?;
            let has = |wanted: &CStr| known.iter().any(|e| words(&e.extension_name).as_bytes() == wanted.to_bytes());
            if !has(khr::pipeline_executable_properties::NAME) {
                return Err(format!("{name} does not report what it compiles: run benches/amd/run.sh").into());
            }
            let matrices = has(khr::cooperative_matrix::NAME);
            let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            if matrices {
                extensions.push(khr::cooperative_matrix::NAME.as_ptr());
            }
            let mut of_11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut of_12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .shader_int8(true)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut of_13 = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true);
            let mut reports =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let mut wanted = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut of_11)
                .push_next(&mut of_12)
                .push_next(&mut of_13)
                .push_next(&mut reports);
            if matrices {
                wanted = wanted.push_next(&mut cooperative);
            }
            let logical = instance.create_device(physical, &wanted, None)?;
            let reports = khr::pipeline_executable_properties::Device::new(&instance, &logical);
            Ok(Device { name, matrices, logical, reports, _instance: instance, _entry: entry })
        }
    }

    /// Compiles the entry point `main` of final WGSL.
    pub(crate) fn compile(&self, wgsl: &str) -> Result<Compiled, Box<dyn Error>> {
        let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module)?;
        // The checks that the engine turns off (gpu::pipeline); with them, loops are not unrolled.
        let unchecked = naga::proc::BoundsCheckPolicy::Unchecked;
        let options = spv::Options {
            lang_version: (1, 4),
            force_loop_bounding: false,
            bounds_check_policies: naga::proc::BoundsCheckPolicies {
                index: unchecked,
                buffer: unchecked,
                image_load: unchecked,
                binding_array: unchecked,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..spv::Options::default()
        };
        let entry = spv::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: module.entry_points[0].name.clone(),
        };
        let code = spv::write_vec(&module, &info, &options, Some(&entry))?;
        let bindings: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, global)| {
                let kind = match global.space {
                    naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    _ => vk::DescriptorType::STORAGE_BUFFER,
                };
                let binding = vk::DescriptorSetLayoutBinding::default().binding(global.binding?.binding);
                Some(binding.descriptor_type(kind).descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE))
            })
            .collect();
        let name = CString::new(entry.entry_point)?;
        // SAFETY: as in `open`; the shader is validated, and its layout lists every binding that it declares.
        unsafe {
            let shader = self.logical.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.logical.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.logical.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&name);
            let captures = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let wanted = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(captures)];
            let pipeline =
                self.logical.create_compute_pipelines(vk::PipelineCache::null(), &wanted, None).map_err(|(_, e)| e)?[0];
            let of = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let statistics = self.reports.get_pipeline_executable_statistics(&of)?;
            let statistics = statistics.iter().map(|s| (words(&s.name), s.value.u64)).collect();
            let assembly = self.assembly(&of)?;
            self.logical.destroy_pipeline(pipeline, None);
            Ok(Compiled { statistics, assembly })
        }
    }

    /// The machine code as text.
    ///
    /// # Safety
    /// `of` names a living pipeline of this device that was made to capture its representations.
    unsafe fn assembly(&self, of: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, Box<dyn Error>> {
        let get = self.reports.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        // SAFETY: the caller's pipeline; the first call asks for the number, the second for the sizes, the third for the texts
        // into buffers of those sizes.
        unsafe {
            get(self.logical.handle(), of, &mut count, std::ptr::null_mut()).result()?;
            let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(self.logical.handle(), of, &mut count, found.as_mut_ptr()).result()?;
            let mut texts: Vec<Vec<u8>> = found.iter().map(|f| vec![0; f.data_size]).collect();
            for (found, text) in found.iter_mut().zip(&mut texts) {
                found.p_data = text.as_mut_ptr().cast();
            }
            get(self.logical.handle(), of, &mut count, found.as_mut_ptr()).result()?;
            let index =
                found.iter().position(|f| words(&f.name).contains("Assembly")).ok_or("no machine code reported")?;
            Ok(String::from_utf8_lossy(&texts[index]).trim_end_matches('\0').to_owned())
        }
    }
}
