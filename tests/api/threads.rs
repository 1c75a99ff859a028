//! A server draws on one thread and answers on others: every public type can be sent to another thread and shared with it,
//! a run only sent.

use std::collections::BTreeSet;

const fn is_shared<T: Send + Sync>() {}

const fn is_sent<T: Send>() {}

/// Checks each type when this is compiled, and gives the names.
macro_rules! shared {
    ($($type:ty),+ $(,)?) => {{
        $(const { is_shared::<$type>() };)+
        vec![$(stringify!($type)),+]
    }};
}

#[cfg(feature = "study")]
fn of_studies() -> Vec<&'static str> {
    shared![
        chiaro::study::Chart,
        chiaro::study::Curve,
        chiaro::study::Measured,
        chiaro::study::Row,
        chiaro::study::Side,
        chiaro::study::Reference,
        chiaro::study::Settings,
        chiaro::study::Study,
        chiaro::study::Told<'static>,
    ]
}

#[test]
fn every_public_type_is_shared_by_threads() {
    // It is advanced by who has it; nobody else has a use for it.
    const { is_sent::<chiaro::Generation>() };
    const { is_sent::<chiaro::engine::Together>() };
    let checked = shared![
        chiaro::image::Exif,
        chiaro::image::Metadata,
        chiaro::image::Stack<'static>,
        chiaro::image::Photo,
        chiaro::image::PictureFormat,
        chiaro::image::Rgb8Image,
        chiaro::Error,
        chiaro::Place,
        chiaro::Device,
        chiaro::ErrorCode,
        chiaro::Remedy,
        chiaro::engine::Cancel,
        chiaro::engine::Engine,
        chiaro::engine::JobEvent,
        chiaro::engine::JobHandle,
        chiaro::engine::Loading,
        chiaro::engine::ModelKey,
        chiaro::engine::Residency,
        chiaro::engine::Statistics,
        chiaro::Event,
        chiaro::OmsRequest,
        chiaro::OmsSource,
        chiaro::Overrides,
        chiaro::Picture,
        chiaro::Pipeline,
        chiaro::Precision,
        chiaro::Request,
        chiaro::Source,
        chiaro::Tier,
        chiaro::options::TokenMerging,
        chiaro::options::Adapter,
        chiaro::options::ControlRequest,
        chiaro::options::DeepCache,
        chiaro::options::Embedding,
        chiaro::options::Hires,
        chiaro::options::InitImage,
        chiaro::options::Part,
        chiaro::options::Streaming,
        chiaro::options::Upscale,
        chiaro::options::VaeTiling,
        chiaro::options::WeightTypes,
        chiaro::options::BetaSchedule,
        chiaro::options::OmsForm,
        chiaro::options::PredictionType,
        chiaro::options::RngKind,
        chiaro::options::SigmaSchedule,
        chiaro::options::SolverKind,
        chiaro::options::TimestepSpacing,
        chiaro::options::Variation,
        chiaro::options::PromptSyntax,
        chiaro::options::WeightType,
        chiaro::lookup::ComponentReport,
        chiaro::lookup::EmbeddingShape,
        chiaro::lookup::Inspection,
        chiaro::lookup::Listed,
        chiaro::lookup::LoraReport,
        chiaro::lookup::MemoryReport,
        chiaro::lookup::OmsModule,
        chiaro::lookup::OmsPart,
        chiaro::lookup::OmsReport,
        chiaro::lookup::Places,
        chiaro::lookup::SingleFile,
        chiaro::shared::DevicePicture,
        chiaro::shared::HostDevice,
        chiaro::recipe::Program,
        chiaro::recipe::Recipe,
        chiaro::recipe::RecipeAdapter,
        chiaro::recipe::RecipeControl,
        chiaro::recipe::RecipeEmbedding,
        chiaro::recipe::RecipeImage,
        chiaro::reports::Network,
        chiaro::reports::AdapterReport,
        chiaro::reports::Bands,
        chiaro::reports::ChunkReport,
        chiaro::reports::EmbeddingReport,
        chiaro::reports::Remedy,
        chiaro::reports::StagePlan,
        chiaro::reports::StageTime,
        chiaro::reports::TextReport,
        chiaro::reports::TokenEntry,
        chiaro::reports::TokenReport,
        chiaro::reports::TooLarge,
        chiaro::order::AdapterJob,
        chiaro::order::Asked,
        chiaro::order::ControlJob,
        chiaro::order::DeviceJob,
        chiaro::order::Field,
        chiaro::order::File,
        chiaro::order::ImageJob,
        chiaro::order::Job,
        chiaro::order::Kind,
        chiaro::order::Load,
        chiaro::order::LoadKey,
        chiaro::order::ModelJob,
        chiaro::order::Order,
        chiaro::order::Preset,
        chiaro::order::Range,
    ];
    #[cfg(feature = "study")]
    let checked = [checked, of_studies()].concat();
    let checked: BTreeSet<String> = checked.iter().map(|name| plain(name)).collect();
    let types = super::listed().into_iter().filter_map(|line| {
        let path = line.strip_prefix("struct ").or(line.strip_prefix("enum "))?;
        (cfg!(feature = "study") || !path.starts_with("chiaro::study::")).then(|| plain(path))
    });
    let sent = ["chiaro::Generation", "chiaro::engine::Together"];
    let missing: Vec<String> = types.filter(|name| !sent.contains(&name.as_str()) && !checked.contains(name)).collect();
    assert!(missing.is_empty(), "not checked, to be added to the lists above: {missing:#?}");
}

/// A type's path without its parameters and what else the list says of it.
fn plain(path: &str) -> String {
    let path: String = path.chars().filter(|c| !c.is_whitespace()).collect();
    path.split(['<', ',']).next().unwrap_or_default().to_owned()
}
