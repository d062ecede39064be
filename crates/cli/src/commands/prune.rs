//! `ringmark prune`: removing what a policy does not keep.

use indicatif::{BinaryBytes, HumanCount};
use ringmark_care::keep::Reason;
use ringmark_care::prune::{Decision, Plan};
use ringmark_image::Removed;
use serde_json::json;

use crate::args::PruneArgs;
use crate::failure::{Code, Failure, OrFail, Result};
use crate::{output, store};

/// Judges every image, and removes those without a reason to stay.
pub(crate) fn run(args: &PruneArgs, as_json: bool) -> Result {
    let store = store::open(&args.store)?;
    let plan = Plan::new(&store.list().or_fail(Code::Store)?, &args.keep, args.vm.as_deref());
    if let (Some(vm), true) = (&args.vm, plan.decisions.is_empty()) {
        return Err(Failure::new(Code::NotFound, format!("the store has no image of a machine `{vm}`"))
            .advice("`ringmark images` lists what the store holds"));
    }
    let removed = match args.dry_run {
        true => None,
        false => Some(plan.carry_out(&store).map_err(|error| store::remove_failure(&error))?),
    };
    if as_json {
        output::json(&json!({
            "schema": output::SCHEMA,
            "keep": args.keep.to_string(),
            "dry_run": args.dry_run,
            "images": plan.decisions.iter().map(|decision| json!({
                "id": decision.image.id.to_hex(),
                "vm": decision.image.vm,
                "keep": decision.keeps(),
                "reasons": decision.reasons.iter().map(Reason::to_string).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "would_free": plan.frees,
            "removed": removed.map(|removed| store::removed(&removed)),
        }));
    } else {
        print(&plan, removed);
    }
    Ok(())
}

fn print(plan: &Plan, removed: Option<Removed>) {
    let rows = plan.decisions.iter().map(|decision| {
        let reasons: Vec<String> = decision.reasons.iter().map(Reason::to_string).collect();
        vec![
            decision.image.id.to_string(),
            decision.image.vm.clone(),
            store::age(&decision.image),
            if decision.keeps() { "keep" } else { "remove" }.to_owned(),
            reasons.join(", "),
        ]
    });
    output::line(output::table(&["image", "machine", "taken", "", "why"], &[], rows));
    let kept = plan.decisions.iter().filter(|decision| Decision::keeps(decision)).count() as u64;
    let leaving = plan.decisions.len() as u64 - kept;
    let (kept, leaving) = (HumanCount(kept), HumanCount(leaving));
    output::line(match removed {
        None => format!(
            "{kept} images stay, {leaving} would be removed, which would free {}",
            BinaryBytes(plan.frees)
        ),
        Some(removed) => {
            format!("{kept} images stay, {leaving} were removed, {} are free", BinaryBytes(removed.bytes))
        }
    });
}
