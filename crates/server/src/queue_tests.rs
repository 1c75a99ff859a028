//! Whose turn it is, and what survives.

use serde_json::Value;

use super::*;

fn accepted(id: &str, client: &str, model: &str) -> Accepted {
    Accepted {
        id: id.into(),
        at: 0,
        client: client.into(),
        front: "chiaro".into(),
        key: None,
        rank: 0,
        count: 1,
        model: model.into(),
        prompt: String::new(),
        oms: false,
        kin: model.into(),
        flops: 0,
        synchronous: false,
        preview_every: 0,
        task: None,
    }
}

fn jobs(folder: &std::path::Path, most: usize) -> Jobs {
    let (journal, lines) = Journal::open(&folder.join("journal.jsonl")).expect("a journal");
    Jobs::restore(journal, lines, most).expect("written")
}

fn drawn(jobs: &Jobs) -> Vec<String> {
    let mut ids = Vec::new();
    while !jobs.order().is_empty() {
        let live = jobs.next().expect("one waits");
        ids.push(live.id().to_owned());
        jobs.end(&live, End::Completed, None);
    }
    ids
}

#[test]
fn clients_take_turns_and_their_own_jobs_stay_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let jobs = jobs(folder.path(), 100);
    for (id, client) in [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "c"), ("6", "b")] {
        jobs.accept(accepted(id, client, "m"), Vec::new()).expect("room");
    }
    assert_eq!(jobs.order(), ["1", "4", "5", "2", "6", "3"]);
    jobs.move_to("3", 0).expect("waits");
    assert_eq!(jobs.order(), ["3", "4", "5", "1", "6", "2"]);
    assert!(jobs.cancel("4") && !jobs.cancel("4"));
    assert_eq!(drawn(&jobs), ["3", "5", "6", "1", "2"]);
    assert!(jobs.move_to("3", 0).is_err());
}

#[test]
fn a_loaded_model_goes_on_for_a_while() {
    let folder = tempfile::tempdir().expect("a folder");
    let jobs = jobs(folder.path(), 100);
    for (id, client, model) in [("1", "a", "x"), ("2", "b", "y"), ("3", "c", "x"), ("4", "b", "x"), ("5", "a", "y")] {
        jobs.accept(accepted(id, client, model), Vec::new()).expect("room");
    }
    // 4 stays behind 2, which is its own client's.
    assert_eq!(drawn(&jobs), ["1", "3", "2", "5", "4"]);
}

/// Who may share a forward with those that run joins them, but nobody waits for ever because of it.
#[test]
fn others_of_their_kind_join_those_that_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let jobs = jobs(folder.path(), 100);
    for (id, client, model) in [("1", "a", "x"), ("2", "b", "y"), ("3", "c", "x"), ("4", "a", "x")] {
        jobs.accept(accepted(id, client, model), Vec::new()).expect("room");
    }
    let first = jobs.next().expect("one waits");
    let joined: Vec<String> = std::iter::from_fn(|| jobs.join("x")).map(|live| live.id().to_owned()).collect();
    assert_eq!((first.id(), joined), ("1", vec!["3".to_owned(), "4".to_owned()]));
    assert_eq!(jobs.running().len(), 3);
    assert!(jobs.join("").is_none());
    // Its patience is over: nobody joins before it was drawn.
    jobs.accept(accepted("5", "c", "x"), Vec::new()).expect("room");
    jobs.lock().put_off = Some(("2".into(), Instant::now().checked_sub(PATIENCE).expect("a machine that runs")));
    assert!(jobs.join("x").is_none());
    for live in jobs.running() {
        jobs.end(&live, End::Completed, None);
    }
    assert_eq!(drawn(&jobs), ["2", "5"]);
}

#[test]
fn what_was_accepted_survives() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = jobs(folder.path(), 3);
    let keyed = Accepted { key: Some("k".into()), ..accepted("1", "a", "m") };
    first.accept(keyed.clone(), Vec::new()).expect("room");
    let again = first.accept(Accepted { id: "9".into(), ..keyed }, Vec::new()).expect("the same");
    assert_eq!(again.id(), "1");
    first.accept(Accepted { synchronous: true, ..accepted("2", "a", "m") }, Vec::new()).expect("room");
    first.accept(accepted("3", "a", "m"), Vec::new()).expect("room");
    let full = first.accept(accepted("4", "a", "m"), Vec::new()).expect_err("full");
    assert_eq!((full.status.as_u16(), full.retry_after), (429, Some(5)));
    let running = first.next().expect("one waits");
    first.drain();
    assert!(first.next().is_none() && first.check_room().is_err());
    drop(first);
    let second = jobs(folder.path(), 3);
    assert_eq!(second.order(), ["1", "3"], "{} ran", running.id());
    assert_eq!(second.find("2").expect("known").state(), State::Ended(End::Cancelled));
    assert_eq!(second.repeated("a", "k").expect("known").id(), "1");
    let live = second.next().expect("one waits");
    second.end(&live, End::Failed, Some(Refusal::bad("x")));
    second.remove("2").expect("written");
    drop(second);
    let third = jobs(folder.path(), 3);
    assert_eq!(third.order(), ["3"]);
    assert!(third.find("2").is_none());
    let told: Value = third.find("1").expect("known").to_json(None);
    assert_eq!((&told["state"], &told["error"]["message"]), (&json!("failed"), &json!("x")));
}
