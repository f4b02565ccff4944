//! Appending to the record in a bucket.

use std::sync::atomic::Ordering;

use super::log::{self, Unread};
use super::store::{Condition, Written};
use super::{BEATEN_MAX, S3Ledger};
use crate::decide::Frame;
use crate::ledger::permit::Durable;
use crate::ledger::{codec, of_this_epoch};
use crate::ports::{AppendError, Lease, Unusable};

impl S3Ledger {
    pub(super) async fn record(&self, frame: Frame) -> Result<Durable, AppendError> {
        let mut turn = self.sent.lock().await;
        let Some(lease) = self.lease() else { return Err(self.fenced(frame.epoch + 1)) };
        of_this_epoch(&frame, &lease)?;
        let store = &self.shared.store;
        let unread = |unread: Unread| match unread.unusable(store) {
            Unusable::Halted(why) => AppendError::Halted(why),
            Unusable::Unavailable(why) | Unusable::Refused(why) => AppendError::Unknown(why),
        };
        for _ in 0..BEATEN_MAX {
            let (slot, line) = {
                let mut log = self.shared.log.lock().await;
                if turn.as_ref().is_some_and(|(sent, _)| *sent == frame) || log.chain.next != frame.index {
                    // It may stand there already, or something else.
                    let from = log.chain.next.min(frame.index);
                    let frames = log.read_from(store, from).await.map_err(unread)?;
                    self.shared.view.reached(log.chain.next);
                    if log.fence > lease.epoch {
                        return Err(self.fenced(log.fence));
                    }
                    match frames.iter().find(|there| there.index == frame.index) {
                        Some(there) if *there == frame => {
                            self.is_unsettled.store(false, Ordering::Relaxed);
                            return Ok(self.recorded(&frame, &lease));
                        }
                        Some(_) => {
                            let why = format!("another frame stands at index {} already", frame.index);
                            return Err(AppendError::Halted(why));
                        }
                        None if log.chain.next < frame.index => {
                            let (index, next) = (frame.index, log.chain.next);
                            let why = format!("frame {index} was to be recorded where frame {next} belongs");
                            return Err(AppendError::Halted(why));
                        }
                        None => {}
                    }
                }
                if log.fence > lease.epoch {
                    return Err(self.fenced(log.fence));
                }
                let encoded = codec::encode(log.chain.head, &frame);
                let (mut line, _) = encoded.map_err(|error| AppendError::Halted(error.to_string()))?;
                line.pop();
                (log.slot, line)
            };
            *turn = Some((frame.clone(), line.clone()));
            self.is_unsettled.store(true, Ordering::Relaxed);
            let written = store.put(&log::key(slot), &line, Condition::Absent).await;
            let written = written.map_err(|trouble| AppendError::Unknown(trouble.to_string()))?;
            // The place is taken, by this one or by another: what was sent there before comes to nothing.
            self.is_unsettled.store(false, Ordering::Relaxed);
            match written {
                Written::Done(_) => {
                    let mut log = self.shared.log.lock().await;
                    if log.slot == slot {
                        log.take(&line).map_err(AppendError::Halted)?;
                    }
                    self.shared.view.reached(log.chain.next);
                    return Ok(self.recorded(&frame, &lease));
                }
                // Ours, sent before; another leader's; or something void. Reading tells.
                Written::Beaten => {}
            }
        }
        Err(AppendError::Unknown("others write without end".to_owned()))
    }

    fn recorded(&self, frame: &Frame, lease: &Lease) -> Durable {
        // The lease may have been renewed meanwhile.
        let lease = self.lease().filter(|now| now.epoch == lease.epoch).unwrap_or(*lease);
        Durable::recorded(frame.index, &lease)
    }
}
