// tests/support/https.mjs — a page of a node's HTTPS, asked for as any client does.
import fs from 'node:fs';
import https from 'node:https';

/** {status, headers, body}; body is JSON when it can be. */
export function askPage(info, page, {method = 'POST', body, authorization, type = 'application/json', origin, ...tls} = {}) {
  const payload = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers = {...(authorization && {authorization}), ...(origin && {origin}), ...(payload !== undefined && {'content-type': type, 'content-length': Buffer.byteLength(payload)})};
    const request = https.request(`${info.httpAddress}${page}`, {method, ca: fs.readFileSync(info.caFile), headers, agent: false, ...tls}, (r) => {
      let text = '';
      r.on('data', (d) => (text += d));
      r.on('end', () => {
        let json = text;
        try {
          json = JSON.parse(text);
        } catch {
          // a page of text
        }
        resolve({status: r.statusCode, headers: r.headers, body: json});
      });
    });
    request.on('error', reject);
    request.end(payload);
  });
}
