//! What was accepted is drawn, whatever happens in between.

use serde_json::json;

use super::{Running, small, until};

#[test]
fn jobs_outlive_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Running::at(folder.path(), |settings| settings.grace = std::time::Duration::ZERO);
    let mut long = small("a circle", 1);
    long["request"]["num_inference_steps"] = json!(200);
    let mut jobs = vec![long];
    jobs.extend((0..3).map(|seed| small("a square", seed)));
    let ids: Vec<String> = jobs.iter().map(|job| server.submit(job)).collect();
    let path = format!("/v1/chiaro/jobs/{}", ids[0]);
    until("it draws", || server.ask("GET", &path, None).json()["progress"]["step"].as_u64() > Some(1));
    // It runs, and is left where it stands.
    server.stop();
    let server = Running::at(folder.path(), |_| {});
    let after: Vec<_> = ids.iter().map(|id| server.wait(id)).collect();
    assert!(after.iter().all(|job| job["state"] == "completed"), "{after:?}");
    for (job, done) in jobs.iter().zip(&after) {
        let again = server.wait(&server.submit(job));
        assert_eq!(again["images"][0]["sha256"], done["images"][0]["sha256"]);
    }
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = Running::at(folder.path(), |_| {});
    let settings = {
        let mut settings = chiaro_server::Settings::new(folder.path().to_owned(), chiaro::lookup::Places::default());
        settings.addresses = vec![([127, 0, 0, 1], 0).into()];
        settings
    };
    let device = chiaro::Device::choose("cpu", chiaro::Precision::Auto).expect("the processor");
    let second = chiaro_server::Server::open(settings, device);
    assert!(second.is_err_and(|error| error.to_string().contains("another server")));
}

#[test]
fn names_that_are_not_there_are_told_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = chiaro_server::Settings::new(folder.path().to_owned(), chiaro::lookup::Places::default());
    settings.addresses = vec![([127, 0, 0, 1], 0).into()];
    settings.model = Some("nothing".into());
    let device = chiaro::Device::choose("cpu", chiaro::Precision::Auto).expect("the processor");
    assert!(chiaro_server::Server::open(settings, device).is_err_and(|error| error.to_string().contains("nothing")));
}
