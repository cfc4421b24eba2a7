// tests/clients/kill.mjs VEDCTL SOCKET: SIGKILLs the storage process of a node, by the pid that its supervisor names.
import {execFileSync} from 'node:child_process';

const [vedctl, socket] = process.argv.slice(2);
const {workers} = JSON.parse(execFileSync(vedctl, ['--socket', socket, 'status', '--json'], {encoding: 'utf8'}));
process.kill(workers.find((w) => w.name === 'storaged').pid, 'SIGKILL');
