//! Saying what sending the machine away would come to.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringmark_control::{Code, Failure, PredictRequest, Predicted, Prefer, SCHEMA};
use ringmark_machine::{ForeseeError, Foresight};
use ringmark_migrate::predict::Goal;

use super::migration::{MAX_DOWNTIME, time};
use super::{MachineService, milliseconds};

/// For how long the guest is watched where nothing else is asked for.
const WATCHED: Duration = Duration::from_secs(2);
/// Longer than this nobody needs to look: it costs the guest.
const LONGEST: Duration = Duration::from_secs(600);

impl MachineService {
    pub(super) fn foresee(&self, request: &PredictRequest, stop: &AtomicBool) -> Result<Predicted, Failure> {
        let wanted =
            wanted(request).map_err(|what| Failure::new(Code::BadRequest, what).guest(self.guest()))?;
        let foreseen = self.machine.predict(&wanted, stop).map_err(|error| self.foresee_failure(&error))?;
        Ok(Predicted {
            schema: SCHEMA,
            name: self.machine.facts().name.clone(),
            measured_ms: milliseconds(foreseen.measured),
            windows: foreseen.windows as u64,
            bandwidth: foreseen.bandwidth,
            bandwidth_assumed: wanted.bandwidth.is_none(),
            rate: foreseen.rate,
            max_downtime_ms: milliseconds(wanted.goal.downtime),
            max_total_ms: wanted.goal.total.map(milliseconds),
            throttle: foreseen.throttle,
            goal: foreseen.prediction.outlook(),
            prediction: foreseen.prediction,
        })
    }

    fn foresee_failure(&self, error: &ForeseeError) -> Failure {
        let (code, advice) = match error {
            ForeseeError::Busy => (Code::Busy, "wait for it and ask again"),
            ForeseeError::Ended => (Code::WrongState, ""),
            ForeseeError::Stopped => (Code::Cancelled, ""),
            ForeseeError::Undecided => (Code::Undecided, "decide with `ringmark migrate VM --decide`"),
            ForeseeError::Paused => (Code::WrongState, "resume it, and ask again"),
            ForeseeError::Measure(_) => (Code::Tracking, "try again: no page is lost"),
            _ => (Code::Guest, "try again: no page is lost"),
        };
        Failure::new(code, error.to_string()).guest(self.guest()).advice(advice)
    }
}

fn wanted(request: &PredictRequest) -> Result<Foresight, String> {
    let watched = request.measure_ms.map(time).transpose()?.unwrap_or(WATCHED);
    if watched > LONGEST {
        return Err(format!(
            "{watched:?} is longer than a guest is watched for, which is {LONGEST:?} at most"
        ));
    }
    if request.bandwidth == Some(0) {
        return Err("over a link of no bandwidth nothing is sent".into());
    }
    Ok(Foresight {
        time: watched,
        bandwidth: request.bandwidth,
        round_trip: request.round_trip_ms.map(time).transpose()?.unwrap_or_default(),
        goal: Goal {
            downtime: request.max_downtime_ms.map(time).transpose()?.unwrap_or(MAX_DOWNTIME),
            total: request.max_total_ms.map(time).transpose()?,
        },
        throttle: request.prefer == Prefer::Downtime,
    })
}
