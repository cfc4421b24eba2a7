// tests/support/metrics.mjs — a gateway's /metrics page, as Prometheus would read it.
import fs from 'node:fs';
import https from 'node:https';

/** info: connection.json of a node, or {httpAddress, caFile, username, password}. Resolves to {'name{labels}': number}. */
export async function metrics({httpAddress, caFile, username, password}) {
  const text = await new Promise((resolve, reject) => {
    const options = {ca: fs.readFileSync(caFile), auth: `${username}:${password}`, agent: false};
    const request = https.get(`${httpAddress}/metrics`, options, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (d) => (body += d));
      response.on('end', () => (response.statusCode === 200 ? resolve(body) : reject(new Error(`/metrics: ${response.statusCode} ${body}`))));
    });
    request.on('error', reject);
  });
  const lines = text.split('\n').filter((line) => line && !line.startsWith('#'));
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}
