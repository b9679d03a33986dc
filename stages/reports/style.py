"""The look of every page: dark and light as the reader's system wants it, on a wide screen and on a phone."""

from __future__ import annotations

# Colours are read against --paper with a contrast of at least 4.5 (text) or 3 (lines), in both schemes.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #56606c; --line: #dde1e6; --paper: #fff; --band: #f3f5f7;
        --bad: #a3291c; --more: #1d6a4a; --other: #7a4a00; --grid: #e6e8eb; --axis: #8a8f98;
        --look-0: #1c2430; --look-1: #1f6fb4; --look-2: #c25a10; --look-3: #23805f; --look-4: #8457b0;
        --look-5: #b3304f; --look-6: #77701c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #a4aebb; --line: #343c47; --paper: #14181e; --band: #1e242c;
          --bad: #ff9c8f; --more: #7fd8ae; --other: #f0c070; --grid: #2a313b; --axis: #717a86;
          --look-0: #e4e8ee; --look-1: #6fb3ee; --look-2: #f0975a; --look-3: #5fc9a2; --look-4: #c09ee8;
          --look-5: #f27f98; --look-6: #c9c05a; }
  .charts > div > svg { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
p { margin: .4rem 0; max-width: 50rem; overflow-wrap: anywhere; } .soft { color: var(--soft); }
a { color: var(--look-1); } :focus-visible { outline: 2px solid var(--look-1); outline-offset: 2px; }
nav { margin: .8rem 0; } nav a { margin-right: 1rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin-bottom: .4rem; } .scroll + .soft { margin: 0 0 1.4rem; font-size: .87rem; }
table { border-collapse: collapse; min-width: min(100%, 34rem); font-size: .92rem; margin-bottom: .6rem; }
table.narrow { min-width: 0; } table.narrow th, table.narrow td { padding-right: 1.6rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(50rem, calc(100vw - 3rem)); }
th, td { text-align: left; vertical-align: top; padding: .4rem 1.2rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } tbody th { font-weight: 400; overflow-wrap: anywhere; min-width: 7.2rem;
           max-width: 22rem; }
thead th { vertical-align: bottom; } th small { font-weight: 400; }
tbody th:first-child, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
td { overflow-wrap: break-word; } td.number { font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
td small, th small { display: block; font-size: .8em; color: var(--soft); }
dl { display: grid; grid-template-columns: fit-content(15rem) 1fr; gap: .15rem 1.2rem; margin: .8rem 0; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.6rem; }
figure { margin: 0 0 1rem; } figure img { width: 100%; height: auto; } figure > svg.plot { max-width: 31rem; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 50rem; overflow-wrap: anywhere; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: 0 0 .3rem; padding: 0;
          font-size: .87rem; } .legend li { overflow-wrap: anywhere; }
svg.swatch { width: 26px; height: 12px; margin-right: .35rem; vertical-align: -1px; overflow: visible; }
svg.plot { display: block; width: 100%; height: auto; font-size: 12.5px; fill: var(--soft); }
svg.plot .grid { stroke: var(--grid); fill: none; } svg.plot .axis { stroke: var(--axis); }
.look-0 { --look: var(--look-0); } .look-1 { --look: var(--look-1); } .look-2 { --look: var(--look-2); }
.look-3 { --look: var(--look-3); } .look-4 { --look: var(--look-4); } .look-5 { --look: var(--look-5); }
.look-6 { --look: var(--look-6); }
svg .line { fill: none; stroke: var(--look); stroke-width: 1.8; stroke-linejoin: round; }
svg .mark, svg .heads, svg .wave { fill: var(--look); } svg .wave { stroke: var(--look); stroke-width: .6; }
svg .whiskers { stroke: var(--look); } svg .band { fill: var(--look); fill-opacity: .1; }
svg .bars { fill: var(--look); fill-opacity: .5; }
svg .dots { stroke: var(--look); stroke-width: 6; stroke-linecap: round; stroke-opacity: .5; }
svg.waveform { display: block; width: 100%; height: 3.6rem; background: var(--band); }
svg.time { display: block; width: 100%; height: 1.3rem; font-size: 12px; fill: var(--soft); overflow: visible; }
svg.time line { stroke: var(--axis); } .waves p { margin: .5rem 0 .1rem; font-size: .9rem; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
article h3 { font-size: 1.05rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: .9rem;
         margin: .7rem 0; }
.card { background: var(--band); border-radius: 6px; padding: .6rem .8rem; min-width: 0; }
.card h4 { margin: 0 0 .3rem; font-size: .95rem; overflow-wrap: anywhere; } .card p { font-size: .92rem; }
.card audio, .sounds audio { width: 100%; } audio { width: 17rem; max-width: 100%; height: 34px; }
.words { line-height: 1.75; } .words del, .words ins { text-decoration-thickness: 1.5px; }
.words del { color: var(--bad); text-decoration-line: line-through; }
.words ins { color: var(--more); text-decoration-line: underline; }
.words mark { color: var(--other); background: none; font-weight: 600; text-decoration: underline dotted; }
.words i { color: var(--soft); font-style: normal; font-size: .87em; }
.titled { margin: .6rem 0; } .titled span { display: block; font-size: .85rem; color: var(--soft); }
.bad { color: var(--bad); } ul.bad { margin: .4rem 0; padding-left: 1.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.4rem 1.6rem; }
.charts svg { width: 100%; height: auto; } .charts + .scroll { margin-top: 1.2rem; }
.sounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: .8rem 1rem; }
.sounds img { height: 8rem; border: 1px solid var(--line); }
details { margin: 1rem 0; } summary { font-weight: 600; cursor: pointer; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  tbody th { max-width: 8.5rem; } table.narrow th, table.narrow td { padding-right: .9rem; } }
@media print { .scroll { overflow: visible; } audio { display: none; } }
"""
