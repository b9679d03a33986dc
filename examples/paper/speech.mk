# The paper's language models: VALL-E and HALL-E, their ablations, and the tables that they are judged in.
# Part of Makefile. A run is RUNS/NAME with ar, nar and model (what `synth` and `eval` take).

TEST_90S ?= ../../data/test-90s
TEST_180S ?= ../../data/test-180s
LIBRISPEECH ?= ../../data/test-35s
# folder of MaskGCT's audio for the utterances of TEST_90S; file names are ids
MASKGCT ?=
# given to every evaluation, such as --max-items 20
EVAL_OPTIONS ?=

MODELS :=
STORES :=

# training sets: the longest utterance is in the name; that of 90 s is what codecs are trained on too
data = $(if $(filter 90s,$1),$(DATASET),$(RUNS)/data-$1)

# $1 run, $2 codec, $3 training set, $4 the run that it starts from, $5 the run whose AR model it shares
define run
MODELS += $1
STORES += $2:$3
.PHONY: $1
$1: $(RUNS)/$1/model/model.json

ifeq ($5,)
$(RUNS)/$1/ar/$(DONE): $(RUNS)/tokens/$2-$3/$(DONE) $(if $4,$(RUNS)/$4/ar/$(DONE))
	$(HALLE) train-ar --config language-models/$1.yaml --tokens $(RUNS)/tokens/$2-$3 --codec $(RUNS)/$2 --out $(RUNS)/$1/ar --preset $(PRESET) $(if $4,--init $(RUNS)/$4/ar) $(OPTIONS)
endif

$(RUNS)/$1/nar/$(DONE): $(RUNS)/tokens/$2-$3/$(DONE) $(if $4,$(RUNS)/$4/nar/$(DONE))
	$(HALLE) train-nar --config language-models/$1.yaml --tokens $(RUNS)/tokens/$2-$3 --codec $(RUNS)/$2 --out $(RUNS)/$1/nar --preset $(PRESET) $(if $4,--init $(RUNS)/$4/nar) $(OPTIONS)

$(RUNS)/$1/model/model.json: $(RUNS)/$(or $5,$1)/ar/$(DONE) $(RUNS)/$1/nar/$(DONE)
	$(HALLE) pack --codec $(RUNS)/$2 --ar $(RUNS)/$(or $5,$1)/ar --nar $(RUNS)/$1/nar --out $(RUNS)/$1/model
endef

# all stores share the text tokenizer of the first: models that start from others must read the same
TOKENIZER := $(RUNS)/tokens/encodec-48hz-28s

# $1 codec, $2 training set
define store
$(RUNS)/tokens/$1-$2/$(DONE): $(RUNS)/$1/$(DONE) $(call data,$2)/$(DONE) $(if $(filter encodec-48hz-28s,$1-$2),,$(TOKENIZER)/$(DONE))
	$(HALLE) tokenize --codec $(RUNS)/$1 --data $(call data,$2) --out $(RUNS)/tokens/$1-$2 --preset $(PRESET) $(if $(filter encodec-48hz-28s,$1-$2),,--text-tokenizer $(TOKENIZER)/text_tokenizer.json)
endef

$(eval $(call run,valle-28s,encodec-48hz,28s))
$(eval $(call run,valle-54s,encodec-48hz,54s))
$(eval $(call run,valle-90s,encodec-48hz,90s))
$(eval $(call run,valle-180s,encodec-48hz,180s))
$(eval $(call run,valle-speechtokenizer,speechtokenizer,28s))
$(eval $(call run,halle-90s,mreq,90s,valle-28s))
$(eval $(call run,halle-180s,mreq,180s,valle-54s))
$(eval $(call run,halle-speechtokenizer,mreq-speechtokenizer,90s,valle-speechtokenizer))
$(eval $(call run,halle-8-48,mreq-8-48,90s,valle-28s))
$(eval $(call run,halle-8-16-48,mreq-8-16-48,90s,valle-28s))
$(eval $(call run,halle-from-scratch,mreq,90s))
$(eval $(call run,halle-pre-only,mreq,90s,valle-28s,halle-90s))
$(eval $(call run,halle-post-only,mreq,90s,valle-28s,halle-90s))
$(eval $(call run,halle-without-fld,mreq-without-fld,90s,valle-28s))
$(eval $(call run,halle-4-16-24-48,mreq-4-16-24-48,90s,valle-28s))
$(eval $(call run,halle-half-quant,mreq-half-quant,90s,valle-28s))
$(eval $(call run,halle-alphas-1-1-2-4,mreq-alphas-1-1-2-4,90s,valle-28s))
$(eval $(call run,halle-alphas-1-1-3-3,mreq-alphas-1-1-3-3,90s,valle-28s))
$(eval $(call run,halle-alphas-1-2-3-2,mreq-alphas-1-2-3-2,90s,valle-28s))

.PHONY: language-models
language-models: $(MODELS)

# asked for by name only: as large at smoke size as at the paper's
$(eval $(call run,valle-large-nar,encodec-48hz,28s,,valle-28s))

$(foreach pair,$(sort $(STORES)),$(eval $(call store,$(word 1,$(subst :, ,$(pair))),$(word 2,$(subst :, ,$(pair))))))

# from recordings, or from what was curated for the codecs
$(patsubst %,$(RUNS)/data-%/$(DONE),28s 54s 180s): $(RUNS)/data-%s/$(DONE): $(if $(DATA),,$(DATASET)/$(DONE))
	$(HALLE) curate $(or $(DATA),$(DATASET)) --out $(@D) --preset $(PRESET) $(if $(JOIN),--join-seconds 3-$*,--max-seconds $*)

# ---- tables

table4 := valle-28s valle-90s halle-90s valle-54s valle-180s halle-180s
table5 := $(table4)
table6 := halle-90s halle-speechtokenizer
table7 := halle-8-48 halle-8-16-48 halle-90s
table8 := halle-90s
table10 := halle-90s halle-pre-only halle-post-only halle-from-scratch
table14 := valle-28s valle-large-nar
table17 := halle-90s halle-without-fld
table18 := halle-90s halle-4-16-24-48
table20 := halle-90s halle-half-quant
table21 := halle-alphas-1-1-2-4 halle-alphas-1-1-3-3 halle-90s halle-alphas-1-2-3-2
table25 := valle-28s valle-90s halle-90s
table26 := valle-90s halle-90s
SPOKEN := table4 table5 table6 table7 table8 table10 table14 table17 table18 table20 table21 table25 table26

.PHONY: $(SPOKEN) $(SPOKEN:%=scores-%) scores-table24
$(foreach table,$(SPOKEN),$(eval $(table): $($(table))))
$(foreach table,$(SPOKEN),$(eval scores-$(table): $(table)))

# As in the paper: a prompt of 3 s, windows that slide by 5 s, and one pass, so that a model which cannot speak as long
# as a text shows it.
PASS := --setting continuation -O single_pass=true -O slide_seconds=5
define newline


endef
# $1 system, $2 test set, $3 what else to call its scores, $4 options. Finished evaluations are left alone.
scored = $(RUNS)/scores/$(notdir $2)/$1$3
evaluate = $(HALLE) eval --set $2 --out $(scored) --preset $(PRESET) $(EVAL_OPTIONS)
say = $(evaluate) --model $(RUNS)/$1/model $(PASS) $4$(newline)
hear = $(evaluate) --hypotheses $(MASKGCT) --setting continuation$(newline)
# $1 systems, $2 test set
tell = $(PYTHON) ../libritts/table.py $(foreach system,$1,$(system)=$(call scored,$(system),$2))$(newline)
compare = $(foreach system,$1,$(call say,$(system),$2))$(call tell,$1,$2)
with-maskgct = $(foreach system,$1,$(call say,$(system),$2))$(if $(MASKGCT),$(call hear,maskgct,$2))$(call tell,$1 $(if $(MASKGCT),maskgct),$2)

# parts of TEST_90S by duration
$(patsubst %,$(RUNS)/test-%s/$(DONE),30 45 60): $(RUNS)/test-%s/$(DONE):
	$(HALLE) curate $(TEST_90S) --out $(@D) --max-seconds $* --clips reference

$(RUNS)/test-over-65s/$(DONE):
	$(HALLE) curate $(TEST_90S) --out $(@D) --min-seconds 65 --clips reference

scores-table4:
	$(call compare,valle-28s valle-90s halle-90s,$(TEST_90S))
	$(call compare,valle-54s valle-180s halle-180s,$(TEST_180S))

scores-table5:
	$(call compare,$(table5),$(LIBRISPEECH))

scores-table6 scores-table7 scores-table10 scores-table14 scores-table17 scores-table18 scores-table20: scores-%:
	$(call compare,$($*),$(TEST_90S))

PROMPT_SECONDS := 3 10 20 40 60
scores-table8: $(RUNS)/test-over-65s/$(DONE)
	$(foreach seconds,$(PROMPT_SECONDS),$(call say,halle-90s,$(RUNS)/test-over-65s,-prompt-$(seconds)s,-O prompt_seconds=$(seconds)))
	$(call tell,$(PROMPT_SECONDS:%=halle-90s-prompt-%s),$(RUNS)/test-over-65s)

scores-table21:
	$(call compare,$(table21),$(TEST_90S))
	$(call compare,$(table21),$(LIBRISPEECH))

scores-table24: $(RUNS)/test-30s/$(DONE) $(RUNS)/test-45s/$(DONE) $(RUNS)/test-60s/$(DONE)
	@test -n "$(MASKGCT)" || { printf 'error: table 24 is of MaskGCT, which is not part of halle\n\nhint: give MASKGCT=FOLDER of its audio; file names are ids\n' >&2; exit 2; }
	$(foreach set,$(RUNS)/test-30s $(RUNS)/test-45s $(RUNS)/test-60s $(TEST_90S),$(call hear,maskgct,$(set)))

scores-table25: $(RUNS)/test-30s/$(DONE)
	$(call with-maskgct,$(table25),$(RUNS)/test-30s)

scores-table26:
	$(call with-maskgct,$(table26),$(TEST_90S))
