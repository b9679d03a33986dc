"""Settings of a run of each stage.

Identity fields (architecture, losses, data, seed) decide what a run computes and may not change when it is
continued; fields marked `running` (paths, device, logging, number of steps) may.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveFloat, field_validator, model_validator

from stages.config.aligner import AlignerConfig
from stages.config.listening import ListeningConfig
from stages.config.lm_training import LMTrainingConfig
from stages.config.models import ARConfig, CodecConfig, MRVQConfig, NARConfig, Settings
from stages.config.recordings import GateConfig, VoiceActivityConfig
from stages.config.run_config import Beta, RunConfig, TrainingConfig, running
from stages.config.sampling import SamplingConfig
from stages.config.verification import VerificationConfig


class CurateConfig(RunConfig):
    """Recordings, with or without transcripts, to a manifest."""

    source: str = running("", description="folder, wav|text list, or the name of a Hugging Face dataset")
    layout: Literal[
        "auto", "recordings", "manifest", "audiofolder", "list", "ljspeech", "librispeech", "libritts", "vctk",
        "dataset",
    ] = Field("auto", description="recordings have no transcripts: models find speakers and words")
    steps: tuple[
        Literal["check", "gate", "fingerprint", "vad", "diarize", "transcribe", "cut", "write"], ...
    ] = running(
        ("check", "gate", "fingerprint", "vad", "diarize", "transcribe", "cut", "write"),
        description="of recordings without transcripts: what this run does; by default all")
    license: str | None = Field(None, description="of recordings that name none")
    encoding: str = Field("utf-8", description="of metadata and transcripts; latin-1 for old corpora")
    speaker: str | None = Field(None, description="the speaker of recordings that name none")
    list_columns: str | None = Field(None, description="columns of a list, such as `wav|speaker|text`")
    list_root: str | None = running(None, description="where a list's paths start; by default the list's folder")
    dataset_config: str | None = Field(None, description="configuration of a Hugging Face dataset, such as `clean`")
    follow_links: bool = Field(False, description="accept symbolic links that leave the source folder")
    gate: GateConfig = GateConfig()
    vad: VoiceActivityConfig = VoiceActivityConfig()
    diarizer: str = Field(
        "resemblyzer", description="who tells speakers apart in recordings that have no .rttm beside them: "
        "resemblyzer, a pipeline of pyannote.audio (folder or name), or none")
    transcriber: str = Field(
        "pocketsphinx", description="who writes down recordings that have no transcript beside them: pocketsphinx, "
        "faster-whisper:MODEL, a model of transformers, or none")
    language: str = Field("en", description="spoken in recordings without transcripts, such as en, de or zh")
    check_language: bool = Field(False, description="leave out utterances whose words are of another language")
    duplicates: Literal["both", "text", "sound", "none"] = Field(
        "both", description="by what copies are found in recordings without transcripts; `sound` where many people "
        "read the same")
    duration_histogram: str | None = Field(
        None, description="durations to keep of recordings without transcripts: train-28s, train-54s, train-90s, "
        "train-180s (of Table 2) or a JSON file with edges and shares")
    histogram_fit: float = Field(0.9, gt=0, le=1, description="share of duration_histogram that is kept and wanted")
    sets: tuple[float, ...] = Field(
        (), description="further sets of the same speech, cut to at most so many seconds, such as [28,54,90]")
    sample_rate: int = Field(24_000, ge=8000)  # section 7.1
    min_rate: int = Field(16_000, ge=1, description="recordings below this sample rate are rejected")
    min_seconds: float = Field(3.0, ge=0)  # section 6; of what is written: joined pieces may be shorter
    max_seconds: float = Field(90.0, gt=0)  # section 6: 90 or 180
    max_offset: float = Field(0.05, gt=0, le=1, description="largest mean sample (DC), of full scale 1")
    min_chars_per_second: float = Field(2.0, ge=0)  # ours: slow single words have about 3
    max_chars_per_second: float = Field(35.0, gt=0)  # ours: fast speech has about 25
    rate_outlier_mads: float = Field(6.0, gt=0, description="median absolute deviations: log text rate, repeated words")
    join_seconds: tuple[float, float] | None = None
    join_pause_seconds: tuple[float, float] = (0.2, 0.6)
    clips: Literal["auto", "flac", "shards", "reference"] = Field(
        "auto", description="flac is one file a clip, shards hold about an hour of clips each; auto takes shards for "
                            "more than 5,000 clips; reference points to the originals")
    loudness_db: float | None = Field(
        None, ge=-60, lt=0, description="RMS of written clips, dB below full scale; prompts are brought to it too")
    validation_share: float = Field(0.02, ge=0, lt=1)
    test_share: float = Field(0.05, ge=0, lt=1)
    holdout_speakers: tuple[str, ...] = Field((), description="the test split is all of these speakers and no other")
    workers: int = running(0, ge=0, description="recordings worked on at once; 0 takes one a processor")

    @model_validator(mode="after")
    def _check_ranges(self) -> CurateConfig:
        for name in ("join_seconds", "join_pause_seconds"):
            least, most = getattr(self, name) or (0.0, 0.0)
            if not 0 <= least <= most:
                raise ValueError(f"`{name}` should rise from at least 0, got {least:g} to {most:g}")
        if self.min_seconds > self.max_seconds:
            raise ValueError("min_seconds should not exceed max_seconds")
        if self.sets and not self.min_seconds < min(self.sets) <= max(self.sets) <= self.max_seconds:
            raise ValueError(f"sets should lie between min_seconds and max_seconds, got {list(self.sets)}")
        if self.min_chars_per_second >= self.max_chars_per_second:
            raise ValueError("min_chars_per_second should be below max_chars_per_second")
        if self.join_seconds and self.join_seconds[1] > self.max_seconds:
            raise ValueError("join_seconds should stay below max_seconds")
        if self.join_seconds and self.clips == "reference":
            raise ValueError("joined utterances are new recordings: expected clips `flac`, got `reference`")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share should leave something to train on")
        return self


class CodecLossWeights(Settings):
    """Audiocraft's weights (inferred: Table 11 is lost); the first four are gradient shares of the balancer.

    Terms on latents are weighed against the balanced gradient of the waveform, of norm 1 a crop. Audiocraft sums
    it over a process's crops and averages over processes, we average over all crops; so a weight of 1 there is one
    over the crops of a process here.
    """

    l1: float = Field(0.1, ge=0)
    mel: float = Field(2.0, ge=0)
    adversarial: float = Field(4.0, ge=0)
    feature: float = Field(4.0, ge=0)
    # inferred: Audiocraft's; samples
    mel_windows: tuple[Annotated[int, Field(ge=4)], ...] = Field((64, 128, 256, 512, 1024), min_length=1)
    commitment: float = Field(1 / 176, ge=0)  # Audiocraft's 1 at 704 crops on 4 processes (section 7.1)


class DiscriminatorConfig(Settings):
    """Multi-scale STFT discriminator (inferred: Audiocraft's)."""

    filters: int = Field(32, ge=1)
    fft_sizes: tuple[Annotated[int, Field(ge=4)], ...] = Field((1024, 2048, 512, 256, 128), min_length=1)
    start_step: int = Field(0, ge=0, description="steps of the codec before there is a discriminator")
    warmup_steps: int = Field(0, ge=0, description="its steps before the adversarial losses reach the codec")

    def judges(self, step: int) -> bool:
        """Tell whether the discriminator takes part in a step."""
        return step > self.start_step

    def teaches(self, step: int) -> bool:
        """Tell whether its losses reach the codec."""
        return step > self.start_step + self.warmup_steps

    def after(self, steps: int) -> DiscriminatorConfig:
        """Return the same plan with a discriminator that starts after `steps` at the earliest."""
        return self.model_copy(update={"start_step": max(self.start_step, steps)})


class CodecTrainingConfig(TrainingConfig):
    """Adam as in section 7.1; betas and the moving average are Audiocraft's."""

    learning_rate: float = Field(9e-4, gt=0)  # section 7.1
    betas: tuple[Beta, Beta] = (0.5, 0.9)  # inferred
    clip_norm: float | None = Field(None, gt=0)  # inferred: off
    ema_decay: float | None = Field(0.99, gt=0, lt=1)  # inferred
    batch_size: int = Field(704, ge=1, description="crops a step, over all processes")  # section 7.1
    validation_utterances: int = running(16, ge=0, description="decoded whole: mel distance, STOI, PESQ and WER")
    transcriber: str | None = running(None, description="recogniser of validation's WER, such as pocketsphinx")
    workers: int = running(0, ge=0, description="threads that read crops; 0 takes one a processor, at most 16")


class TrainCodecLossWeights(CodecLossWeights):
    """L_NAC, and for a `speechtokenizer` the distillation of its first codebook.

    SpeechTokenizer weighs distillation by 120 (config/spt_base_cfg.json) beside losses of the waveform that no balancer
    scales: of them 500 times L1 and 45 times mel give speech at -20 dB RMS, with noise at 0 to 20 dB, a gradient of
    norm 440 a crop (the median of 46 crops of 1 s). Ours has norm 1. At smoke size the term then pulls at the latents
    about a tenth as hard as the waveform's losses do; every run logs both.
    """

    semantic: float = Field(120 / 440, ge=0)  # inferred


class SemanticConfig(Settings):
    """The self-supervised model that teaches the first codebook of a `speechtokenizer` (appendix A.1)."""

    model: str = running("facebook/hubert-base-ls960", description="folder, or downloaded name, of a HuBERT")
    # inferred: the average of all layers, as in SpeechTokenizer's config/spt_base_cfg.json
    layer: int | Literal["average"] = Field("average", description="0 is what the transformer is given")


class TrainCodecConfig(RunConfig):
    """A manifest to a 48 Hz residual-VQ codec."""

    data: str = running("")
    init: str | None = running(None, description="codec whose encoder and decoder to start from; identity by content")
    codec: CodecConfig = CodecConfig()
    quantizer_start_step: int = Field(0, ge=0, description="steps as a plain autoencoder before there are codebooks")
    # ours is the distribution (Zeghidour et al. 2021: each number of codebooks alike); not in the paper
    codebook_dropout: tuple[FiniteFloat, ...] = Field(
        (), description="shares of the crops that are decoded from the first 1, 2, .. codebooks alone")
    crop_seconds: float = Field(1.0, gt=0)  # inferred
    semantic: SemanticConfig = SemanticConfig()  # of speechtokenizer
    losses: TrainCodecLossWeights = TrainCodecLossWeights()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    training: CodecTrainingConfig = CodecTrainingConfig()


class MReQLossWeights(CodecLossWeights):
    """L_NAC + FLD + HSR. The paper's weights of FLD and HSR are lost; ours put them near L_NAC.

    Measured on speech with a smoke-size teacher, over 200 steps of 4 crops: gradient norms of 0.014 (L_NAC at h),
    0.033 (FLD at c~_1) and 0.022 (HSR at all D_k). All fall alike with more crops. Every run logs its own.
    """

    commitment: float = Field(1 / 160, ge=0)  # Audiocraft's 1 at 160 crops on one process (section 7.1)
    fld: tuple[float, ...] | float = 1.0  # one for all pairs of equation 14, or one each
    hsr: tuple[float, ...] | float = 1.0  # one for all blocks of equation 17, or one each


class IgnoredBlockConfig(Settings):
    """When `mreq` gives up on a first block that its decoder ignores; all values are ours."""

    stop: bool = running(True)
    least_mel_rise: float = running(
        0.02, gt=0, description="by which the mel distance rises at least when the first block is held constant")
    from_step: int = running(2000, ge=0, description="before, a block has not had the time to learn")


class MReQConfig(RunConfig):
    """A codec to its multi-resolution successor."""

    teacher: str = running("", description="may be left out beside `init`, without distillation then")
    data: str = running("")
    init: str | None = running(None, description="multi-resolution codec to go on from; identity by content")
    rates: tuple[FiniteFloat, ...] | None = Field(None, description="Hz of every block, to derive `mrvq.blocks` from")
    alphas: tuple[int, ...] | None = Field(None, description="codebooks of every PreQ, as in Table 21; likewise")
    mrvq: MRVQConfig = MRVQConfig()
    # ours: PreQ and PostQ of the first block are neither sent nor predicted
    first_block_codebooks: int | None = Field(
        None, ge=1, description="codebooks of both, in place of alpha_1: more make the first block finer at no bit")
    init_autoencoder: Literal["teacher", "fresh"] = "teacher"  # section 4.2; fresh: Table 9, without pre-training
    init_codebooks: Literal["teacher", "kmeans"] = "teacher"  # inferred
    # ours: without decoding, a step takes a fraction of the time
    frozen_steps: int = Field(0, ge=0, description="first steps in which encoder and decoder rest, nothing is decoded")
    # ours, after quantizer dropout (Zeghidour et al. 2021, section III-D), so that the lowest block speaks by itself
    block_dropout: tuple[FiniteFloat, ...] = Field(
        (), description="shares of the crops decoded from the first 1, 2, .. blocks alone: h_1, h_2, .. of equation 15")
    crop_seconds: float = Field(1.0, gt=0)  # inferred
    losses: MReQLossWeights = MReQLossWeights()
    ignored_block: IgnoredBlockConfig = IgnoredBlockConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    training: CodecTrainingConfig = CodecTrainingConfig(steps=160_000, learning_rate=3e-4, batch_size=160)  # 7.1


class TokenizeConfig(RunConfig):
    """A manifest and a codec to a token store."""

    codec: str = running("", description="by default that of the model folder after `like`")
    data: str = running("")
    like: str | None = running(
        None, description="a model folder, an AR or NAR run, or a store, for which the tokens shall be")
    text_tokenizer: str | None = running(
        None, description="reuse the tokenizer of this file, store, run or model instead of learning one")
    text_vocab_size: int = Field(258, ge=8)  # Table 13
    lowercase: bool = True  # inferred
    unknown_characters: Literal["skip", "drop", "fail"] = "skip"
    shard_utterances: int = Field(1000, ge=1)
    batch_seconds: float = running(60.0, gt=0, description="audio in a batch")
    workers: int = running(0, ge=0, description="threads that read and, on a CPU, encode; 0 takes torch's, at most 8")


class TrainARConfig(RunConfig):
    """A token store to the AR language model."""

    tokens: str | tuple[str, ...] = running("", description="a store, or several, each with a weight: STORE:0.5")
    codec: str | None = running(None, description="that made the tokens: to speak at validations, and for an aligner")
    nar: str | None = running(None, description="to speak with; without one the lowest stream alone is decoded")
    system: Literal["halle", "valle"] | None = None
    init: str | None = running(None, description="run or model to start from; its fingerprint is identity")
    keep_architecture: bool = Field(False, description="sizes are those of the model to start from, not of `model`")
    model: ARConfig = ARConfig()
    codebook_start: bool = Field(
        False, description="start tables and heads at the codec's codebooks and the frequencies of its codes (ours)")
    stream_weights: tuple[PositiveFloat, ...] | None = Field(
        None, description="how much each stream counts in training, a text pointer's first; by default all alike")
    no_text_probability: float = Field(
        0.0, ge=0, lt=1, description="share of utterances whose text is hidden, for sampling.guidance to be possible")
    aligner: AlignerConfig = AlignerConfig()  # of a text pointer
    training: LMTrainingConfig = LMTrainingConfig()


class TrainNARConfig(RunConfig):
    """A token store and its codec to the NAR language model."""

    tokens: str | tuple[str, ...] = running("", description="a store, or several, each with a weight: STORE:0.5")
    codec: str = running("")
    system: Literal["halle", "valle"] | None = None
    init: str | None = running(None, description="run or model to start from; its fingerprint is identity")
    keep_architecture: bool = Field(False, description="sizes are those of the model to start from, not of `model`")
    model: NARConfig = NARConfig()
    codebook_start: bool = Field(
        False, description="start heads at the codec's codebooks and the frequencies of its codes (ours)")
    window_seconds: float = Field(28.0, gt=0)  # appendix A.2: 28 s for 90 s of audio, 54 s for 180 s
    prompt_seconds: float = Field(3.0, gt=0)  # section 7.1
    no_prompt_probability: float = Field(0.1, ge=0, le=1)  # inferred
    no_text_probability: float = Field(
        0.0, ge=0, lt=1, description="share of clips whose text is hidden, for sampling.nar_guidance to be possible")
    level_weights: tuple[PositiveFloat, ...] | None = Field(
        None, description="how often each level is trained; by default all alike, as in the paper")
    aligner: AlignerConfig = AlignerConfig()  # of text_mode pointer
    training: LMTrainingConfig = LMTrainingConfig()


class SpeechConfig(RunConfig):
    """What `synth` and `eval` share: the model and how it is sampled."""

    model: str | None = running(None)
    codec: str | None = running(None)
    ar: str | None = running(None)
    nar: str | None = running(None)
    precision: Literal["fp32", "bf16", "int8"] = Field("fp32", description="of both language models; int8 on a CPU")
    cuda_graphs: bool = running(False, description="on a GPU: steps of the AR as CUDA graphs")
    sampling: SamplingConfig = SamplingConfig()
    max_seconds: float | None = Field(
        None, gt=0, description="longest speech; by default, for each pass, what the AR was trained on")
    single_pass: bool = Field(False, description="never split a text, however long")
    carry_seconds: float = Field(3.0, gt=0, description="of what was said last, the next pass's prompt; up to twice it")
    pause_seconds: float = Field(0.7, ge=0, description="silence for each blank line of a script")
    window_seconds: float | None = Field(None, gt=0, description="by default the NAR's own")
    slide_seconds: float | None = Field(
        None, gt=0, description="the NAR's windows move by this; appendix A.2 says 5; by default as few as overlap")
    # ours, by reasoning: frames are read with 2.5 s on both sides at least, where there are so many, and 90 s take 4
    # windows of 28 s instead of 14. What it costs in WER waits for a trained model
    overlap_seconds: float = Field(5.0, ge=0, description="least overlap of windows that do not slide")
    window_mode: Literal["center", "paper"] = "center"
    prompt_seconds: float = Field(3.0, gt=0)  # section 7.1; the least and, for eval, the exact length
    transcriber: str = "pocketsphinx"


class SynthConfig(SpeechConfig):
    """Text and a reference recording to speech."""

    # paths may change: every text and prompt is recognised by its content
    text: str | None = running(None, description="a text file, or many: a folder of .txt, or .jsonl rows of id, text")
    say: str | None = None
    prompt: str = running("")
    prompt_text: str | None = running(None)
    max_prompt_seconds: float = Field(30.0, gt=0)
    trim_prompt: bool = Field(True, description="cut silence off the prompt's ends")
    explain_text: bool = running(False, description="only say how the text is read")
    reading_passage: bool = running(False, description="only give a text to record as a prompt")
    allow_unfinished: bool = running(False)
    captions: Literal["none", "srt", "vtt", "both"] = "none"
    audio_format: Literal["wav", "flac", "ogg", "mp3"] = Field("wav", description="of many texts' audio")
    batch_size: int = running(8, ge=1, description="texts that the AR speaks at once, of many")
    verify: bool = Field(False, description="judge what was spoken, and speak again what is wrong")
    verify_attempts: int = Field(3, ge=0, description="new takes of a pass at most")
    verification: VerificationConfig = VerificationConfig()


class EvalConfig(SpeechConfig):
    """A test set to scores."""

    set: str = running("", description="a name below the data root, a folder or a list; its fingerprint is identity")
    data_root: str | None = running(None, description="where named test sets are; by default $HALLE_DATA, else data")
    split: str | None = Field(None, description="by default the rows marked test, all when none is; or all")
    only: tuple[str, ...] = Field((), description="COLUMN=VALUE or COLUMN=A,B: rows of the set for which all hold")
    hypotheses: tuple[str, ...] = running((), description="folders of anyone's audio, file stems are ids")
    names: tuple[str, ...] = running((), description="of the hypotheses, in order; by default their folders' names")
    protocol: Literal["halle", "valle"] | None = running(None, description="score as this paper does")
    recording_seconds: tuple[float, float] | None = Field(None, description="only recordings of MIN to MAX seconds")
    encoding: str = running("utf-8", description="of the test set's texts; latin-1 for old corpora")
    text_limits: str = Field("auto", description="lengths of texts as in training (section 6): curate, the manifest of "
                             "a training set, or none; auto is curate for MinutesSpeech and --protocol halle")
    export_tasks: str | None = running(None, description="folder to write prompts and texts to, for another system")
    with_prompt: bool = running(False, description="continuation: the hypotheses begin with the prompt, as spoken")
    batch_size: int = running(1, ge=1, description="texts that the AR speaks at once; above 1 nothing is timed")
    seeds: int = running(1, ge=1, description="takes of each text, each with another seed; prompts are the same")
    transcripts: tuple[str, ...] = running((), description="files of what a recogniser elsewhere heard; none is run")
    setting: Literal["cross-sentence", "continuation", "reconstruction"] = "cross-sentence"
    max_prompt_seconds: float = Field(15.0, gt=0, description="longest utterance used as a prompt across sentences")
    prompt_lengths: tuple[PositiveFloat, ...] = running((), description="continuation after prompts of these seconds")
    further_codecs: tuple[str, ...] = running((), description="reconstruction: to be compared with the first codec")
    metrics: tuple[str, ...] = running((), description="by default all that the setting allows")
    speaker_model: str = running("microsoft/wavlm-base-plus-sv", description="of SIM: file, folder, name, resemblyzer")
    utmos: str | None = running(None, description="TorchScript file of UTMOS; by default the downloaded one")
    max_items: int | None = running(None, ge=1)
    bootstrap_samples: int = running(1000, ge=10)
    # Nothing is made with it, so it may change where `synth` may not change it
    transcriber: str = running("pocketsphinx", description="who listens; each keeps its own transcripts")
    language: str = running("en", pattern="^[a-z]{2,3}([-_][A-Za-z0-9]+)*$", description="of the texts")
    # what the paper counted (table 23) is not recovered
    fillers: tuple[str, ...] = running((), description="words, phrases to count as such; by default uh, um and others")
    listening_test: bool = running(False, description="write a page on which people rate all systems, blind")
    listening: ListeningConfig = running(ListeningConfig())
    listening_answers: tuple[str, ...] = running((), description="files that listeners exported, or folders of them")

    @field_validator("hypotheses", "names", "transcripts", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_source(self) -> EvalConfig:
        if self.names and len(self.names) != len(self.hypotheses):
            raise ValueError(f"expected a --name for each of {len(self.hypotheses)} --hypotheses, "
                             f"got {len(self.names)}")
        if self.further_codecs and (self.setting != "reconstruction" or not self.codec):
            raise ValueError("several codecs can be compared with --reconstruct only")
        if self.with_prompt and not (self.hypotheses and self.setting == "continuation"):
            raise ValueError("--with-prompt is for --hypotheses in the setting `continuation`")
        return self
