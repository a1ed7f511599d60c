"""What the sampler's bfloat16 weights cost in likelihood: a trained run's held-out bits/sample with and without them.

python benchmarks/precision.py --run RUN, on the whole validation set of the run's corpus.

Figures: float32_bits, bfloat16_bits, bfloat16_cost_bits.
"""

from __future__ import annotations

from common import options, report

from wavevq.build import build_store
from wavevq.decoders import of_speech
from wavevq.evaluate.likelihood import measure
from wavevq.run import load_run
from wavevq.sampling.reference import rounded


def main() -> None:
    given = options(__doc__ or "", takes_run=True)
    run = load_run(given.run, "cpu")
    store = build_store(run.recipe)
    bits = {}
    for precision in ("float32", "bfloat16"):
        if precision == "bfloat16":
            decoder = of_speech(run.model.decoder)
            decoder.wavenet = rounded(decoder.wavenet)
        found = measure(
            run.model,
            store,
            "val",
            batch=run.recipe.evaluation.batch,
            limit=60 if given.quick else None,
            others=0,
            seed=run.recipe.seed,
        )
        bits[precision] = found.bits
    print(f"{run.folder} after {run.step} steps, {found.clips} clips")
    report(
        {
            "float32_bits": bits["float32"],
            "bfloat16_bits": bits["bfloat16"],
            "bfloat16_cost_bits": bits["bfloat16"] - bits["float32"],
        },
        given,
    )


if __name__ == "__main__":
    main()
