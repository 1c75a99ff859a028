//! The application's own use of its device: a window's surface, a pipeline, a uniform. Nothing here knows of Chiaro but what it is lent.

use std::sync::Arc;
use std::time::Instant;

use chiaro::shared::{HostDevice, device_descriptor, wgpu};
use winit::window::Window;

use crate::Result;

pub struct Painter {
    lent: HostDevice,
    surface: wgpu::Surface<'static>,
    configuration: wgpu::SurfaceConfiguration,
    pipeline: wgpu::RenderPipeline,
    uniform: wgpu::Buffer,
    sampler: wgpu::Sampler,
    bind_group: wgpu::BindGroup,
    has_picture: bool,
    started: Instant,
}

impl Painter {
    pub async fn new(window: Arc<Window>) -> Result<Painter> {
        let size = window.inner_size();
        let instance = wgpu::Instance::default();
        let surface = instance.create_surface(window)?;
        let options = wgpu::RequestAdapterOptions { compatible_surface: Some(&surface), ..Default::default() };
        let adapter = instance.request_adapter(&options).await?;
        // What Chiaro has a use for; an application adds its own features and limits.
        let (device, queue) = adapter.request_device(&device_descriptor(&adapter)).await?;
        let configuration = surface.get_default_config(&adapter, size.width.max(1), size.height.max(1));
        let configuration = configuration.ok_or("the window cannot be drawn on with this adapter")?;
        surface.configure(&device, &configuration);
        let shader = device.create_shader_module(wgpu::include_wgsl!("draw.wgsl"));
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("window"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &shader,
                entry_point: None,
                compilation_options: Default::default(),
                buffers: &[],
            },
            primitive: Default::default(),
            depth_stencil: None,
            multisample: Default::default(),
            fragment: Some(wgpu::FragmentState {
                module: &shader,
                entry_point: None,
                compilation_options: Default::default(),
                targets: &[Some(configuration.format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let uniform = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("frame"),
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let sampler = device.create_sampler(&wgpu::SamplerDescriptor {
            mag_filter: wgpu::FilterMode::Linear,
            min_filter: wgpu::FilterMode::Linear,
            ..Default::default()
        });
        let nothing = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("no picture yet"),
            size: wgpu::Extent3d::default(),
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::TEXTURE_BINDING,
            view_formats: &[],
        });
        let bind_group = bound(&device, &pipeline, &uniform, &nothing, wgpu::TextureFormat::Rgba8Unorm, &sampler);
        Ok(Painter {
            lent: HostDevice { adapter, device, queue },
            surface,
            configuration,
            pipeline,
            uniform,
            sampler,
            bind_group,
            has_picture: false,
            started: Instant::now(),
        })
    }

    /// What is lent: handles, whose clones are the same device.
    pub fn lent(&self) -> HostDevice {
        self.lent.clone()
    }

    /// Shows a picture from now on. Its values are sRGB's: on a surface that takes linear light they are read as such.
    pub fn show(&mut self, picture: &wgpu::Texture) {
        let is_linear = self.configuration.format.is_srgb();
        let format = if is_linear { wgpu::TextureFormat::Rgba8UnormSrgb } else { wgpu::TextureFormat::Rgba8Unorm };
        self.bind_group = bound(&self.lent.device, &self.pipeline, &self.uniform, picture, format, &self.sampler);
        self.has_picture = true;
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        (self.configuration.width, self.configuration.height) = (width.max(1), height.max(1));
        self.surface.configure(&self.lent.device, &self.configuration);
    }

    pub fn paint(&mut self) -> Result<()> {
        let texture = match self.surface.get_current_texture() {
            wgpu::CurrentSurfaceTexture::Success(texture) | wgpu::CurrentSurfaceTexture::Suboptimal(texture) => texture,
            wgpu::CurrentSurfaceTexture::Outdated => {
                self.surface.configure(&self.lent.device, &self.configuration);
                return Ok(());
            }
            // The window is not seen.
            wgpu::CurrentSurfaceTexture::Timeout | wgpu::CurrentSurfaceTexture::Occluded => return Ok(()),
            lost => return Err(format!("the window's surface: {lost:?}").into()),
        };
        let (width, height) = (self.configuration.width as f32, self.configuration.height as f32);
        let frame = [width, height, self.started.elapsed().as_secs_f32(), f32::from(u8::from(self.has_picture))];
        let bytes: Vec<u8> = frame.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.lent.queue.write_buffer(&self.uniform, 0, &bytes);
        let view = texture.texture.create_view(&wgpu::TextureViewDescriptor::default());
        let mut encoder = self.lent.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations::default(),
                })],
                ..Default::default()
            });
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bind_group, &[]);
            pass.draw(0..3, 0..1);
        }
        self.lent.queue.submit([encoder.finish()]);
        self.lent.queue.present(texture);
        Ok(())
    }
}

fn bound(
    device: &wgpu::Device,
    pipeline: &wgpu::RenderPipeline,
    uniform: &wgpu::Buffer,
    picture: &wgpu::Texture,
    format: wgpu::TextureFormat,
    sampler: &wgpu::Sampler,
) -> wgpu::BindGroup {
    let view = picture.create_view(&wgpu::TextureViewDescriptor { format: Some(format), ..Default::default() });
    let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("frame"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            entry(0, uniform.as_entire_binding()),
            entry(1, wgpu::BindingResource::TextureView(&view)),
            entry(2, wgpu::BindingResource::Sampler(sampler)),
        ],
    })
}
