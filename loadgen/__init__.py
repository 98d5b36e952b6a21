"""The load generator: makes load, simulates or sends it, and judges what came of it by one set of definitions.

    workloads     who sends how much, and when
    simulator     the production scheduler in front of a model of an engine
    client        real HTTP load, and what its sender saw
    mock          an engine without a model, with a log of what it did
    judge         from what was seen to figures: service, shares, gaps, waits
    report        figures as tables, pages and pictures
    paper         the experiments of OSDI'24, beside what was published
    calibration   cost functions fitted to what an engine was measured to take

Shared by all: `errors`, `progress`, and `service_log`, the format in which engines tell the judge what they did.
"""
