//! The whole way, once, as the README shows it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Home, hypervisors};
use serde_json::Value;

fn is_count(value: &Value) -> bool {
    value.as_u64().is_some()
}

fn demo(hypervisor: &str) {
    let home = Home::new();
    let wish = format!("--hypervisor={hypervisor}");
    let sizes = ["--memory=256M", "--hot=8M", "--checkpoints=5"];
    let done = home.run(&[&["demo", "--json", &wish], &sizes[..]].concat()).succeeded();
    assert_eq!(done.stdout.lines().count(), 1, "one document and nothing else");
    let report = done.json();
    assert_eq!(report["hypervisor"], hypervisor);
    assert!(report["tracking"].as_str().is_some_and(|text| !text.is_empty()), "{report}");
    assert_eq!(report["ok"], true, "{report}");

    let checkpoints = report["checkpoints"].as_array().unwrap();
    assert!(checkpoints.len() >= 5, "{report}");
    let (base, increments) = checkpoints.split_first().unwrap();
    let all_pages = (256 << 20) / rustix::param::page_size() as u64;
    assert_eq!(base["pages"], all_pages, "a base holds every page");
    for taken in checkpoints {
        assert_eq!(taken["escapes"], 0, "{taken}");
        assert!(is_count(&taken["pages"]) && is_count(&taken["bytes"]), "{taken}");
        assert!(taken["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{taken}");
        let sources = taken["by_source"].as_object().unwrap();
        assert!(["ring", "bitmap", "monitor"].iter().all(|name| is_count(&sources[*name])), "{taken}");
        let reported: u64 = sources.values().map(|pages| pages.as_u64().unwrap()).sum();
        assert_eq!(taken["pages"], reported, "every page has a source that reported it first");
    }
    for taken in increments {
        let sources = &taken["by_source"];
        let guest = sources["ring"].as_u64().unwrap() + sources["bitmap"].as_u64().unwrap();
        assert!(guest > 0, "the guest wrote, and a source of the hypervisor's saw it: {taken}");
        assert!(
            taken["pages"].as_u64().unwrap() < all_pages / 2,
            "an increment holds what was written: {taken}"
        );
    }

    let restored = report["restored"].as_array().unwrap();
    assert_eq!(restored.len(), 2, "{report}");
    assert_ne!(restored[0]["image"], restored[1]["image"]);
    assert_eq!(restored[0]["image"], checkpoints.last().unwrap()["image"], "the last image is one of them");
    for machine in restored {
        assert!(checkpoints.iter().any(|taken| taken["image"] == machine["image"]), "{machine}");
        assert_eq!(
            (&machine["guest_check"], &machine["memory_check"]),
            (&"ok".into(), &"ok".into()),
            "{machine}"
        );
    }
    assert!(!home.store().exists(), "the demonstration leaves the user's store alone");
}

#[test]
fn the_demonstration_is_one_document_on_every_hypervisor() {
    for hypervisor in hypervisors("the_demonstration_is_one_document_on_every_hypervisor") {
        demo(hypervisor);
    }
}

#[test]
fn the_demonstration_for_people_is_tables_on_stdout_and_a_story_on_stderr() {
    let home = Home::new();
    let kept = home.dir().join("kept");
    let keep = format!("--keep={}", kept.display());
    let args = ["demo", "--hypervisor=engine", "--memory=32M", "--hot=1M", "--checkpoints=2", &keep];
    let done = home.run(&args).succeeded();
    for word in ["pages", "ring", "bitmap", "monitor", "stored", "pause ms", "escapes", "restored image"] {
        assert!(done.stdout.contains(word), "the tables lack `{word}`: {done:#?}");
    }
    for word in ["on engine: asked for", "killing the machine without warning", "in order"] {
        assert!(done.stderr.contains(word), "the story lacks `{word}`: {done:#?}");
    }
    assert!(!done.stdout.contains("demo:"), "{done:#?}");
    let store = kept.to_str().unwrap();
    home.run(&["verify", "--store", store]).succeeded();
}
