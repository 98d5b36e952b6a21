"""What engines say of themselves is judged."""

from fairgate.trials.engines import room_kept
from loadgen.judge.engines import EngineLog, EngineRecord
from loadgen.service_log import Peaks


def test_an_engine_that_got_too_much_is_a_broken_promise(tmp_path):
    for peaks, kept in ((Peaks(4, 4, 60, 64), True), (Peaks(4, 5, 60, 64), False), (Peaks(4, 4, 60, 65), False)):
        engine = EngineLog(slots=4, kv_tokens=64, starts=1, peaks=peaks)
        assert [promise.kept for promise in room_kept(EngineRecord({tmp_path: engine}, ()))] == [kept]
