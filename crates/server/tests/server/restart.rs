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

/// What ended long ago goes, and the oldest of what takes more than it may; what is left can still be looked at.
#[test]
fn what_has_ended_is_kept_within_limits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Running::at(folder.path(), |_| {});
    let ids: Vec<String> = (0..3).map(|seed| server.submit(&small("a square", seed))).collect();
    let bytes: Vec<u64> =
        ids.iter().map(|id| server.wait(id)["images"][0]["bytes"].as_u64().expect("a number")).collect();
    server.stop();
    let there = |server: &Running| -> Vec<String> {
        let listed = server.ask("GET", "/v1/chiaro/jobs", None).json();
        let jobs = listed["jobs"].as_array().expect("a list").iter();
        jobs.map(|job| job["id"].as_str().expect("an id").to_owned()).collect()
    };
    // Room for two: the oldest goes, with its folder.
    let mut server = Running::at(folder.path(), |settings| settings.disk_bytes = bytes[1] + bytes[2]);
    until("the oldest goes", || there(&server).len() == 2);
    assert_eq!(there(&server), [ids[2].clone(), ids[1].clone()]);
    until("its folder goes", || !folder.path().join("jobs").join(&ids[0]).exists());
    assert_eq!(server.ask("GET", &format!("/v1/chiaro/jobs/{}/images/0", ids[1]), None).body.len() as u64, bytes[1]);
    server.stop();
    let server = Running::at(folder.path(), |settings| settings.keep = std::time::Duration::ZERO);
    until("all go", || there(&server).is_empty());
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
