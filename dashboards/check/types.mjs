// Writes TypeScript in which each dashboard is a value of Grafana's own types: what is misspelt or of the wrong kind does not
// compile.    node types.mjs OUT.ts DASHBOARD.json...
import { readFileSync, writeFileSync } from "node:fs";
import { basename } from "node:path";

const [out, ...files] = process.argv.slice(2);
const kinds = { stat: "Stat", timeseries: "TimeSeries", table: "Table", "state-timeline": "StateTimeline" };
const raw = "@grafana/schema/dist/esm/raw/composable";
const imports = Object.values(kinds).map(
  (kind) => `import type * as ${kind} from "${raw}/${kind.toLowerCase()}/panelcfg/x/${kind}PanelCfg_types.gen";`,
);
const lines = [
  ...imports,
  'import type { AnnotationQuery, Dashboard } from "@grafana/schema";',
  "// JSON has the values of enumerations.",
  "type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
  "// What the plugin of Prometheus reads of an annotation beside what all have.",
  "type Annotation = Plain<AnnotationQuery> & { expr: string; titleFormat: string; textFormat: string };",
  "// What it reads of a query; Grafana's types of it are the plugin's own.",
  'type Query = { datasource: { type: string; uid: string }; refId: string; expr: string; legendFormat: string } & (',
  '  { instant?: never } | { instant: true; range: false; format?: "table" });',
  'type Checked = Omit<Plain<Dashboard>, "annotations"> & { annotations: { list: Annotation[] } };',
];
const put = (name, type, value) => lines.push(`export const ${name}: ${type} = ${JSON.stringify(value, null, 1)};`);
files.forEach((file, n) => {
  const dashboard = JSON.parse(readFileSync(file, "utf8"));
  lines.push(`// ${basename(file)}`);
  put(`dashboard${n}`, "Checked", dashboard);
  for (const { id, type, options, fieldConfig, targets } of dashboard.panels) {
    if (type === "row") continue;
    lines.push(`// ${basename(file)}, panel ${id}`);
    put(`options${n}_${id}`, `Plain<${kinds[type]}.Options>`, options);
    put(`queries${n}_${id}`, "Query[]", targets);
    const { custom } = fieldConfig.defaults;
    if (custom) put(`custom${n}_${id}`, `Plain<${kinds[type]}.FieldConfig>`, custom);
  }
});
writeFileSync(out, lines.join("\n"));
