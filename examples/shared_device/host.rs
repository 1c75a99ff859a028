//! An application that draws with wgpu: its device, its frames, its callbacks. Nothing here knows of Chiaro but what a device should have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chiaro::shared::{HostDevice, device_descriptor, wgpu};

/// Errors of this program, of wgpu and of the library.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// 60 frames a second.
const PACE: Duration = Duration::from_micros(16_667);

/// An application with a device of its own.
pub(crate) struct Host {
    pub(crate) lent: HostDevice,
    screen: wgpu::Texture,
    pub(crate) errors: Arc<AtomicUsize>,
    pub(crate) losses: Arc<AtomicUsize>,
}

impl Host {
    pub(crate) async fn open() -> Result<Host> {
        let instance = wgpu::Instance::default();
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
        // What Chiaro has a use for; an application adds its own features and limits.
        let (device, queue) = adapter.request_device(&device_descriptor(&adapter)).await?;
        let (errors, losses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (error, loss) = (Arc::clone(&errors), Arc::clone(&losses));
        device.on_uncaptured_error(Arc::new(move |_| {
            error.fetch_add(1, Ordering::Relaxed);
        }));
        device.set_device_lost_callback(move |_, _| {
            loss.fetch_add(1, Ordering::Relaxed);
        });
        let screen = device.create_texture(&target());
        Ok(Host { lent: HostDevice { adapter, device, queue }, screen, errors, losses })
    }

    /// A frame: draws, waits until it would be seen, and sleeps until the next one is due. Gives how long it took.
    pub(crate) fn frame(&self) -> Result<Duration> {
        let started = Instant::now();
        let view = self.screen.create_view(&wgpu::TextureViewDescriptor::default());
        let mut encoder = self.lent.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let ops = wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLUE), store: wgpu::StoreOp::Store };
        let color = wgpu::RenderPassColorAttachment { view: &view, depth_slice: None, resolve_target: None, ops };
        let attachments = [Some(color)];
        drop(encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &attachments,
            ..wgpu::RenderPassDescriptor::default()
        }));
        let submission = self.lent.queue.submit([encoder.finish()]);
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        self.lent.device.poll(wait)?;
        let took = started.elapsed();
        std::thread::sleep(PACE.saturating_sub(took));
        Ok(took)
    }

    /// The red, green and blue of a texture.
    pub(crate) fn read_back(&self, texture: &wgpu::Texture) -> Result<Vec<u8>> {
        let row = (4 * texture.width()).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let (size, usage) =
            (u64::from(row * texture.height()), wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let buffer = self.lent.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        });
        let mut encoder = self.lent.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
        self.lent.queue.submit([encoder.finish()]);
        buffer.map_async(wgpu::MapMode::Read, .., |_| {});
        self.lent.device.poll(wgpu::PollType::wait_indefinitely())?;
        let rows = buffer.get_mapped_range(..)?;
        let pixels = rows.chunks(row as usize).flat_map(|row| row[..4 * texture.width() as usize].chunks(4));
        Ok(pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
    }
}

/// What the frames are drawn on.
pub(crate) fn target() -> wgpu::TextureDescriptor<'static> {
    wgpu::TextureDescriptor {
        label: Some("screen"),
        size: wgpu::Extent3d { width: 256, height: 256, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8Unorm,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
        view_formats: &[],
    }
}
