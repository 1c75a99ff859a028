//! A device of a driver's, for compiling alone: opened as wgpu opens it, with what it reports of pipelines.

use std::ffi::{CStr, CString};

use ash::{Entry, Instance, ext, khr, vk};
use chiaro::gpu::BindingKind;

use crate::Result;
use crate::form::Form;
use crate::targets;

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
    /// Lanes of a hardware thread.
    pub(crate) lanes: u32,
    statistics: Vec<(String, u64)>,
    pub(crate) assembly: String,
}

impl Compiled {
    /// The value of the first of `names`, which differ between drivers, that is reported.
    ///
    /// # Errors
    /// When the driver reports none of them: it must not read as 0.
    pub(crate) fn statistic(&self, names: &[&str]) -> Result<u64> {
        let found = names.iter().find_map(|name| self.statistics.iter().find(|(known, _)| known == name));
        Ok(found.ok_or_else(|| format!("the driver reports no {names:?}, only {:?}", self.statistics))?.1)
    }
}

fn words(text: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = text.iter().take_while(|&&c| c != 0).map(|c| c.to_ne_bytes()[0]).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Device {
    /// The first device, which the environment makes the one that is asked for.
    pub(crate) fn open() -> Result<Self> {
        // SAFETY: calls in the order that Vulkan asks for, with structures that live until each call returns; what they make is
        // kept beside what it was made from, and the process ends after its last use.
        unsafe {
            let entry = Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance =
                entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
            let physical =
                *instance.enumerate_physical_devices()?.first().ok_or("no device: run benches/offline/run.sh")?;
            let mut of_driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut of_driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let name = words(&properties.properties.device_name);
            let name = format!("{name}, {}", words(&of_driver.driver_info));
            let known = instance.enumerate_device_extension_properties(physical)?;
            let has = |wanted: &CStr| known.iter().any(|e| words(&e.extension_name).as_bytes() == wanted.to_bytes());
            if !has(khr::pipeline_executable_properties::NAME) {
                return Err(format!("{name} does not report what it compiles: run benches/offline/run.sh").into());
            }
            let matrices = has(khr::cooperative_matrix::NAME);
            let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            extensions.extend(matrices.then_some(khr::cooperative_matrix::NAME.as_ptr()));
            // wgpu leaves the bounds of buffers to the driver where it can.
            let bounded = has(ext::robustness2::NAME);
            extensions.extend(bounded.then_some(ext::robustness2::NAME.as_ptr()));
            let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let mut of_11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut of_12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .shader_int8(true)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut of_13 = vk::PhysicalDeviceVulkan13Features::default()
                .subgroup_size_control(true)
                .shader_integer_dot_product(true);
            let mut reports =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let mut wanted = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_features(&core)
                .enabled_extension_names(&extensions)
                .push_next(&mut of_11)
                .push_next(&mut of_12)
                .push_next(&mut of_13)
                .push_next(&mut reports);
            if matrices {
                wanted = wanted.push_next(&mut cooperative);
            }
            if bounded {
                wanted = wanted.push_next(&mut robust);
            }
            let logical = instance.create_device(physical, &wanted, None)?;
            let reports = khr::pipeline_executable_properties::Device::new(&instance, &logical);
            Ok(Device { name, matrices, logical, reports, _instance: instance, _entry: entry })
        }
    }

    /// Compiles a kernel as the library ships it.
    pub(crate) fn compile(&self, form: &Form) -> Result<Compiled> {
        let code = targets::spirv(form, (1, 6), false)?;
        let bindings = form.interface.bindings.iter().zip(0..);
        let bindings: Vec<_> = bindings
            .map(|(binding, number)| {
                let kind = match binding.kind {
                    BindingKind::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    BindingKind::Read | BindingKind::ReadWrite => vk::DescriptorType::STORAGE_BUFFER,
                };
                let binding = vk::DescriptorSetLayoutBinding::default().binding(number);
                binding.descriptor_type(kind).descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let name = CString::new(form.interface.entry_point.as_str())?;
        // SAFETY: as in `open`; the shader is validated, and its layout lists every binding that it declares.
        unsafe {
            let shader = self.logical.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.logical.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.logical.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&name);
            let captures = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let wanted = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(captures)];
            let pipeline =
                self.logical.create_compute_pipelines(vk::PipelineCache::null(), &wanted, None).map_err(|(_, e)| e)?[0];
            let all = vk::PipelineInfoKHR::default().pipeline(pipeline);
            let lanes = self.reports.get_pipeline_executable_properties(&all)?.first().map_or(0, |e| e.subgroup_size);
            let of = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let statistics = self.reports.get_pipeline_executable_statistics(&of)?;
            let statistics = statistics.iter().map(|s| (words(&s.name), s.value.u64)).collect();
            let assembly = self.assembly(&of)?;
            self.logical.destroy_pipeline(pipeline, None);
            Ok(Compiled { lanes, statistics, assembly })
        }
    }

    /// The machine code as text.
    ///
    /// # Safety
    /// `of` names a living pipeline of this device that was made to capture its representations.
    unsafe fn assembly(&self, of: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String> {
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
            let is_code = |f: &vk::PipelineExecutableInternalRepresentationKHR<'_>| words(&f.name).contains("ssembly");
            let index = found.iter().position(is_code).ok_or("no machine code reported")?;
            Ok(String::from_utf8_lossy(&texts[index]).trim_end_matches('\0').to_owned())
        }
    }
}
