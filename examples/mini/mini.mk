# The small model for the package: its speech, its codecs, its language models. `make` here passes these targets on.
#
#   make -C examples/mini corpus HUMAN=FOLDER    the speech; without HUMAN, flite's alone
#   make -C examples/mini slice MINUTES=30       train what is next for so long; the same again goes on from there
#   make -C examples/mini ar                     one stage to its end, and before it all that it needs
#   make -C examples/mini codec ARCH=encodec     the other codec, beside the first
#   make -C examples/mini slice MINUTES=30 CODECS=shipped
#                                                with the codec of the package; VALL-E's starts from its autoencoder
#   make -C examples/mini results MODELS=shipped with the codec and HALL-E of the package; VALL-E alone is trained
#
# Sizes are those of the preset, what only this recipe wants is in spectral.yaml and encodec.yaml.

BIN := $(addsuffix /,$(wildcard ../../.venv/bin))
HALLE ?= $(BIN)halle
PYTHON ?= $(BIN)python3
RUNS ?= ../../runs/mini
PRESET ?= mini
ARCH ?= spectral
CODECS ?= trained
MODELS ?= trained
SHIPPED := ../../stages/pretrained/halle-mini
# as many hours for both systems: five of a core for either AR, three for either NAR; VALL-E's steps are dearer
AR_STEPS ?= 27000
NAR_STEPS ?= 10800
VALLE_AR_STEPS ?= 8500
VALLE_NAR_STEPS ?= 6200
# given to every training command, such as -O training.tracker=tensorboard
OPTIONS ?=

# glibc's allocator took 30 % of VALL-E's training steps (RESULTS.md, Speed): jemalloc where it is installed
FASTER := $(firstword $(wildcard /usr/lib/*/libjemalloc.so.2 /usr/lib64/libjemalloc.so.2))
ifneq ($(FASTER),)
export LD_PRELOAD ?= $(FASTER)
endif

DONE := checksums.json
CORPUS := $(RUNS)/corpus
DATASET := $(RUNS)/data
CODEC := $(RUNS)/codec-$(ARCH)
MREQ := $(RUNS)/mreq
# what language models are trained on is what ships: tokens of other weights would be other tokens
PACKED := $(RUNS)/halle-mini-codec
GATE := $(RUNS)/gate
TOKENS := $(RUNS)/tokens
# more speech for the language models: four voices read WordNet's definitions
MORE_CORPUS := $(RUNS)/definitions-corpus
MORE_DATA := $(RUNS)/definitions-data
MORE_TOKENS := $(RUNS)/definitions-tokens
AR := $(RUNS)/ar
NAR := $(RUNS)/nar
VALLE_CODEC := $(CODEC)
VALLE_PACKED := $(RUNS)/valle-mini-codec
VALLE_GATE := $(RUNS)/valle-gate
VALLE_TOKENS := $(RUNS)/valle-tokens
VALLE_MORE_TOKENS := $(RUNS)/valle-definitions-tokens
VALLE_AR := $(RUNS)/valle-ar
VALLE_NAR := $(RUNS)/valle-nar

QUEUE := codec mreq packed gate tokens definitions-tokens ar nar \
  valle-packed valle-gate valle-tokens valle-definitions-tokens valle-ar valle-nar
ifeq ($(MODELS),shipped)
override CODECS := shipped
else ifneq ($(MODELS),trained)
$(error expected MODELS to be `trained` or `shipped`, got `$(MODELS)`)
endif
ifeq ($(CODECS),shipped)
PACKED := $(SHIPPED)/codec
VALLE_CODEC := $(RUNS)/valle-codec
QUEUE := valle-codec valle-packed valle-gate valle-tokens valle-definitions-tokens valle-ar valle-nar
ifeq ($(MODELS),trained)
QUEUE := gate tokens definitions-tokens ar nar $(QUEUE)
endif
else ifneq ($(CODECS),trained)
$(error expected CODECS to be `trained` or `shipped`, got `$(CODECS)`)
endif

SETTINGS = --preset $(PRESET) --config $(ARCH).yaml
run-codec = $(HALLE) train-codec --data $(DATASET) --out $(CODEC) --arch $(ARCH) $(SETTINGS) $(OPTIONS)
run-mreq = $(HALLE) mreq --teacher $(CODEC) --data $(DATASET) --out $(MREQ) $(SETTINGS) $(OPTIONS)
run-packed = $(HALLE) pack --codec $(MREQ) --half --out $(PACKED)
run-gate = $(PYTHON) gate.py --data $(DATASET) --codec $(PACKED) --out $(GATE)
run-tokens = $(HALLE) tokenize --codec $(PACKED) --data $(DATASET) --out $(TOKENS) $(SETTINGS)
run-definitions-tokens = $(HALLE) tokenize --codec $(PACKED) --data $(MORE_DATA) --text-tokenizer $(TOKENS) \
  --out $(MORE_TOKENS) $(SETTINGS)
SPEECH := --tokens $(TOKENS) --tokens $(MORE_TOKENS) --codec $(PACKED)
# what is heard depends most on the first codebooks; of the last ones hardly anything can be known
run-ar = $(HALLE) train-ar $(SPEECH) --out $(AR) $(SETTINGS) --steps $(AR_STEPS) \
  -O stream_weights=[1,3,2,1.5,1,0.75,0.75] $(OPTIONS)
# the 16 and 24 Hz blocks decide most of what is heard, of the last one the decoder knows to do without (`make blocks`)
run-nar = $(HALLE) train-nar $(SPEECH) --out $(NAR) $(SETTINGS) --steps $(NAR_STEPS) \
  -O level_weights=[3,2,2,1.5,0.5,0.5,0.5] $(OPTIONS)
# its encoder and decoder have been trained: new codebooks need a seventh of the steps, at the rate of `mreq`; its decoder
# learns as HALL-E's does, from as many codebooks as that one's first blocks stand for
run-valle-codec = $(HALLE) train-codec --init $(PACKED) --data $(DATASET) --out $(VALLE_CODEC) $(SETTINGS) \
  --steps 4000 -O quantizer_start_step=0 -O training.learning_rate=5e-4 -O discriminator.start_step=4000 \
  -O codebook_dropout=[0.4,0,0.1,0,0.1] $(OPTIONS)
run-valle-packed = $(HALLE) pack --codec $(VALLE_CODEC) --half --out $(VALLE_PACKED)
run-valle-gate = $(PYTHON) gate.py --data $(DATASET) --codec $(VALLE_PACKED) --out $(VALLE_GATE)
run-valle-tokens = $(HALLE) tokenize --codec $(VALLE_PACKED) --data $(DATASET) --out $(VALLE_TOKENS) $(SETTINGS)
run-valle-definitions-tokens = $(HALLE) tokenize --codec $(VALLE_PACKED) --data $(MORE_DATA) \
  --text-tokenizer $(VALLE_TOKENS) --out $(VALLE_MORE_TOKENS) $(SETTINGS)
VALLE_SPEECH := --tokens $(VALLE_TOKENS) --tokens $(VALLE_MORE_TOKENS) --codec $(VALLE_PACKED)
# as many seconds of speech a step as HALL-E's AR: six times the frames
run-valle-ar = $(HALLE) train-ar $(VALLE_SPEECH) --out $(VALLE_AR) $(SETTINGS) --steps $(VALLE_AR_STEPS) \
  -O training.batch_tokens=6000 $(OPTIONS)
run-valle-nar = $(HALLE) train-nar $(VALLE_SPEECH) --out $(VALLE_NAR) $(SETTINGS) --steps $(VALLE_NAR_STEPS) $(OPTIONS)

# what language models are scored on, and as what
RESULTS := $(RUNS)/results
TUNING_DATA := $(RUNS)/tuning-data
# the best of `make halle-tuning` and `make valle-tuning`, as many trials for both
HALLE_SAMPLING ?= --sampling temperature=0.7 --sampling guidance=3 --sampling nar_guidance=3 --sampling nar_mean=true \
  --sampling mean_temperature=1.5
VALLE_SAMPLING ?= --sampling temperature=0.5 --sampling guidance=3 --sampling nar_guidance=3 --sampling nar_mean=true
RESULTS_DATA := $(RUNS)/results-data
# of either kind a folder of its own, whose name is that of the system in tables
HALLE_MODEL_DIR := $(RUNS)/$(if $(filter shipped,$(MODELS)),shipped/)HALL-E-mini
VALLE_MODEL_DIR := $(RUNS)/VALL-E-mini
RESULT_KINDS := seen unseen
# the same texts in the other setting: of one voice, which are enough to see what a prompt of its own sentence changes
CONTINUED := rms
RESULT_SETTINGS := -O speaker_model=resemblyzer -O batch_size=8
SPOKEN_BY_VALLE := $(RESULT_KINDS:%=$(RESULTS)/valle-%/$(DONE))
# how long a text takes is measured with one at a time
HALLE_ALONE := $(RESULTS)/halle-alone
VALLE_ALONE := $(RESULTS)/valle-alone
run-alone = $(HALLE) eval --set $(RESULTS_DATA) --only set=seen --only speaker=$(CONTINUED) --metric real_time_factor \
  --out $(@D) --model

.PHONY: corpus definitions $(QUEUE) figures blocks slice halle-model valle-model halle-tuning valle-tuning results-data \
  scorers results results-without-valle
.DELETE_ON_ERROR:

corpus: $(DATASET)/$(DONE)
codec: $(CODEC)/$(DONE)
mreq: $(MREQ)/$(DONE)
packed: $(PACKED)/$(DONE)
gate: $(GATE)/$(DONE)
tokens: $(TOKENS)/$(DONE)
definitions: $(MORE_DATA)/$(DONE)
definitions-tokens: $(MORE_TOKENS)/$(DONE)
ar: $(AR)/$(DONE)
nar: $(NAR)/$(DONE)
ifeq ($(CODECS),shipped)
valle-codec: $(VALLE_CODEC)/$(DONE)
endif
valle-packed: $(VALLE_PACKED)/$(DONE)
valle-gate: $(VALLE_GATE)/$(DONE)
valle-tokens: $(VALLE_TOKENS)/$(DONE)
valle-definitions-tokens: $(VALLE_MORE_TOKENS)/$(DONE)
valle-ar: $(VALLE_AR)/$(DONE)
valle-nar: $(VALLE_NAR)/$(DONE)

figures: $(CODEC)/$(DONE) $(PACKED)/$(DONE)
	$(PYTHON) figures.py --data $(DATASET) --codec $(CODEC) --mreq $(PACKED) --out $(RUNS)/figures

blocks: $(DATASET)/$(DONE) $(PACKED)/$(DONE)
	$(PYTHON) blocks.py --data $(DATASET) --codec $(PACKED)

halle-model: $(HALLE_MODEL_DIR)/model.json
valle-model: $(VALLE_MODEL_DIR)/model.json
results-data: $(RESULTS_DATA)/$(DONE)

ifeq ($(MODELS),shipped)
$(HALLE_MODEL_DIR)/model.json: $(SHIPPED)/model.json
	mkdir -p $(@D)
	cp -R $(SHIPPED)/. $(@D)
else
$(HALLE_MODEL_DIR)/model.json: $(AR)/$(DONE) $(NAR)/$(DONE)
	$(HALLE) pack --codec $(PACKED) --ar $(AR) --nar $(NAR) --half $(HALLE_SAMPLING) --out $(@D)
endif

$(VALLE_MODEL_DIR)/model.json: $(VALLE_AR)/$(DONE) $(VALLE_NAR)/$(DONE)
	$(HALLE) pack --codec $(VALLE_PACKED) --ar $(VALLE_AR) --nar $(VALLE_NAR) --half $(VALLE_SAMPLING) --out $(@D)

$(TUNING_DATA)/$(DONE):
	$(PYTHON) make_corpus.py --tuning --out $(RUNS)/tuning-corpus
	$(HALLE) curate $(RUNS)/tuning-corpus --out $(TUNING_DATA) --preset $(PRESET) -O rate_outlier_mads=20

halle-tuning: $(HALLE_MODEL_DIR)/model.json $(TUNING_DATA)/$(DONE)
	$(PYTHON) tune.py --set $(TUNING_DATA) --model $(HALLE_MODEL_DIR) --out $(RUNS)/tuning-halle

valle-tuning: $(VALLE_MODEL_DIR)/model.json $(TUNING_DATA)/$(DONE)
	$(PYTHON) tune.py --set $(TUNING_DATA) --model $(VALLE_MODEL_DIR) --out $(RUNS)/tuning-valle

$(RESULTS_DATA)/$(DONE):
	$(PYTHON) make_corpus.py --results --out $(RUNS)/results-corpus
	$(HALLE) curate $(RUNS)/results-corpus --out $(RESULTS_DATA) --preset $(PRESET) -O rate_outlier_mads=20

$(RESULTS)/valle-%/$(DONE): $(VALLE_MODEL_DIR)/model.json $(RESULTS_DATA)/$(DONE)
	$(HALLE) eval --set $(RESULTS_DATA) --only set=$* --model $(VALLE_MODEL_DIR) --out $(@D) --metric duration_distance \
	  -O batch_size=8

$(HALLE_ALONE)/$(DONE): $(HALLE_MODEL_DIR)/model.json $(RESULTS_DATA)/$(DONE)
	$(run-alone) $(HALLE_MODEL_DIR)

$(VALLE_ALONE)/$(DONE): $(VALLE_MODEL_DIR)/model.json $(RESULTS_DATA)/$(DONE)
	$(run-alone) $(VALLE_MODEL_DIR)

results: scorers $(SPOKEN_BY_VALLE) $(VALLE_ALONE)/$(DONE)
results: HEARD = --hypotheses $(RESULTS)/valle-$$kind/audio/VALL-E-mini --name VALL-E-mini
results: TIMED = $(VALLE_ALONE)
results: SPOKEN = --spoken $(RESULT_KINDS:%=$(RESULTS)/valle-%)
results: RIVALS = VALL-E-mini-AR=$(VALLE_AR) VALL-E-mini-NAR=$(VALLE_NAR)
results results-without-valle: OWN = $(if $(filter trained,$(MODELS)),HALL-E-mini-AR=$(AR) HALL-E-mini-NAR=$(NAR))
results results-without-valle: scorers $(HALLE_MODEL_DIR)/model.json $(RESULTS_DATA)/$(DONE) $(HALLE_ALONE)/$(DONE)
	for kind in $(RESULT_KINDS); do $(HALLE) eval --set $(RESULTS_DATA) --only set=$$kind --model $(HALLE_MODEL_DIR) \
	  $(HEARD) --out $(RESULTS)/$$kind $(RESULT_SETTINGS) || exit; done
	$(HALLE) eval --set $(RESULTS_DATA) --only set=seen --only speaker=$(CONTINUED) --setting continuation \
	  --model $(HALLE_MODEL_DIR) --out $(RESULTS)/continuation $(RESULT_SETTINGS)
	$(PYTHON) results.py --seen $(RESULTS)/seen --unseen $(RESULTS)/unseen --alone $(HALLE_ALONE) $(TIMED) $(SPOKEN) \
	  --continuation $(RESULTS)/continuation --curves $(OWN) $(RIVALS) --out $(RESULTS)

# SIM and DNSMOS: better known to be missing before hours of speaking
scorers:
	@$(PYTHON) -c 'import resemblyzer, speechmos' || { printf '\nhint: %s; %s\n' \
	  "pip install 'halle[mos]' webrtcvad 'setuptools<81'" 'pip install --no-deps resemblyzer' >&2; exit 7; }

NO_CORPUS := 'error: `%s` holds no finished corpus\n\nhint: make -C examples/mini %s\n'
slice:
	@test -f $(DATASET)/$(DONE) || { printf $(NO_CORPUS) $(DATASET) corpus >&2; exit 2; }
	@test -f $(MORE_DATA)/$(DONE) || { printf $(NO_CORPUS) $(MORE_DATA) definitions >&2; exit 2; }
	@$(PYTHON) slice.py --minutes '$(MINUTES)' $(foreach stage,$(QUEUE),--stage $(stage) '$(run-$(stage))')

# one rule for both, so that the corpus may be deleted when the data is there
$(DATASET)/$(DONE):
	$(PYTHON) make_corpus.py --out $(CORPUS) $(HUMAN:%=--human %)
	$(HALLE) curate $(CORPUS) --out $(DATASET) --preset $(PRESET) -O rate_outlier_mads=20

$(MORE_DATA)/$(DONE):
	$(PYTHON) make_corpus.py --definitions --out $(MORE_CORPUS)
	$(HALLE) curate $(MORE_CORPUS) --out $(MORE_DATA) --preset $(PRESET) -O rate_outlier_mads=20

$(CODEC)/$(DONE): $(DATASET)/$(DONE)
	$(run-codec)

$(MREQ)/$(DONE): $(CODEC)/$(DONE)
	$(run-mreq)

ifeq ($(CODECS),trained)
$(PACKED)/$(DONE): $(MREQ)/$(DONE)
	$(run-packed)
else
$(VALLE_CODEC)/$(DONE): $(DATASET)/$(DONE)
	$(run-valle-codec)
endif

$(GATE)/$(DONE): $(DATASET)/$(DONE) $(PACKED)/$(DONE)
	$(run-gate)

$(TOKENS)/$(DONE): $(GATE)/$(DONE)
	$(run-tokens)

$(MORE_TOKENS)/$(DONE): $(TOKENS)/$(DONE) $(MORE_DATA)/$(DONE)
	$(run-definitions-tokens)

$(AR)/$(DONE): $(TOKENS)/$(DONE) $(MORE_TOKENS)/$(DONE)
	$(run-ar)

$(NAR)/$(DONE): $(TOKENS)/$(DONE) $(MORE_TOKENS)/$(DONE)
	$(run-nar)

$(VALLE_PACKED)/$(DONE): $(VALLE_CODEC)/$(DONE)
	$(run-valle-packed)

$(VALLE_GATE)/$(DONE): $(DATASET)/$(DONE) $(VALLE_PACKED)/$(DONE)
	$(run-valle-gate)

$(VALLE_TOKENS)/$(DONE): $(VALLE_GATE)/$(DONE)
	$(run-valle-tokens)

$(VALLE_MORE_TOKENS)/$(DONE): $(VALLE_TOKENS)/$(DONE) $(MORE_DATA)/$(DONE)
	$(run-valle-definitions-tokens)

$(VALLE_AR)/$(DONE): $(VALLE_TOKENS)/$(DONE) $(VALLE_MORE_TOKENS)/$(DONE)
	$(run-valle-ar)

$(VALLE_NAR)/$(DONE): $(VALLE_TOKENS)/$(DONE) $(VALLE_MORE_TOKENS)/$(DONE)
	$(run-valle-nar)
