"""What a training run looks at while it trains, with the averaged weights."""

from __future__ import annotations

from wavevq.data.batches import whole_clips
from wavevq.data.store import Store
from wavevq.evaluate import likelihood
from wavevq.evaluate.report import spectrogram_figure, usage_figure
from wavevq.nn.encoders import frames_of, valid
from wavevq.noise import uniform
from wavevq.recipe import Evaluation
from wavevq.sampling import choose
from wavevq.train.log import Clip, Validation
from wavevq.vqvae import VqVae

COLLAPSED = 0.05  # perplexity / K below which a codebook has collapsed


class Validator:
    """Called by the training loop: held-out likelihoods and the alarms, curves' pictures and clips.

    The last pass takes all validation clips, the others ``plan.clips`` of them.
    """

    def __init__(self, model: VqVae, store: Store, plan: Evaluation, steps: int, seed: int) -> None:
        self.model, self.store, self.plan, self.steps, self.seed = model, store, plan, steps, seed

    def __call__(self, step: int) -> Validation:
        limit = None if step == self.steps else self.plan.clips
        found = likelihood.measure(
            self.model,
            self.store,
            "val",
            batch=self.plan.batch,
            limit=limit,
            others=self.plan.speakers,
            seed=self.seed,
        )
        scalars: dict[str, float] = {"bits_per_sample": found.bits, "marginal_bits": found.marginal}
        if found.rate is not None:
            scalars["rate_bits_per_sample"] = found.rate
        if found.shuffled_gap is not None:
            scalars[f"shuffled_{transmitted(found)}_gap"] = found.shuffled_gap
        if found.wrong_speaker_gap is not None:
            scalars["wrong_speaker_gap"] = found.wrong_speaker_gap
        figures = {}
        if found.usage is not None:
            scalars |= {
                "codes_used": found.usage.used,
                "codes": len(found.usage.counts),
                "perplexity": found.usage.perplexity,
                "perplexity_share": found.usage.share,
            }
            figures["codebook usage"] = usage_figure(found.usage.counts.numpy(), f"codebook usage at step {step}")
        scalars["clips"] = found.clips
        clips = {}
        for name, clip in self._sampled():
            clips[name] = clip
            figures[f"spectrogram/{name}"] = spectrogram_figure(clip.samples, clip.rate, name)
        return Validation(scalars, figures, clips, tuple(warnings(found)))

    def _sampled(self) -> list[tuple[str, Clip]]:
        """The first seconds of some clips, and what sampling from their codes gives."""
        clips = []
        for batch in whole_clips(self.store, "val", self.plan.batch, self.model.hop, self.plan.sampled):
            most = max(1, int(self.plan.sampled_seconds * self.store.rate) // self.model.hop) * self.model.hop
            device = next(self.model.parameters()).device
            x, lengths = batch.x[..., :most].to(device), batch.lengths.clamp(max=most).to(device)
            latents = self.model.encode(x, lengths)
            noise = uniform(self.seed, batch.index.tolist(), x.shape[-1]).to(device)
            frames = valid(frames_of(lengths, self.model.hop), latents.z.shape[1])
            sampler = choose("auto", device=device)
            drawn = self.model.decoder.sample(latents.z, batch.label.to(device), noise, sampler, frames=frames)
            for row, length in enumerate(lengths.tolist()):
                name = self.store.split("val")[int(batch.index[row])].name
                for kind, audio in (("original", x), ("reconstruction, sampled", drawn)):
                    clips.append((f"{name} {kind}", Clip(audio[row, 0, :length].cpu().numpy(), self.store.rate)))
        return clips


def transmitted(found: likelihood.Likelihoods) -> str:
    """What the decoder is given: codes, or the latents of a model that has none."""
    return "latents" if found.usage is None else "codes"


def warnings(found: likelihood.Likelihoods) -> list[str]:
    """What must be said aloud."""
    said = []
    use = found.usage
    if use is not None and (use.share < COLLAPSED or use.used == 1):  # one code of a small codebook is a large share
        size = len(use.counts)
        said.append(f"the codebook has collapsed: {use.used} of {size} codes, perplexity {use.perplexity:.1f}")
    if found.shuffled_gap is not None and found.shuffled_gap <= 0:
        said.append(
            f"the decoder ignores its {transmitted(found)}: another clip's serve as well "
            f"({found.shuffled_gap:+.3f} bits/sample)"
        )
    if found.wrong_speaker_gap is not None and found.wrong_speaker_gap <= 0:
        said.append(
            f"the decoder ignores the speaker: any other serves as well ({found.wrong_speaker_gap:+.3f} bits/sample)"
        )
    return said
