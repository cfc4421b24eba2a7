#!/usr/bin/env python3
# tests/simrot/mutate.py CC ROOT LIBVD_BASE: machine.c with one mistake at a time; the simulator must find each.
import os
import subprocess
import sys
import tempfile

cc, root, base = sys.argv[1:4]
SOURCE = os.path.join(root, 'veddb-rotated/rotation/machine.c')
MISTAKES = [
    ('retires without a proof', '!machine->proved ||', ''),
    ('retires before the audit log is wrapped', 'machine->wrapped_version != kept->target ||', ''),
    ('takes "done" of a re-encryption for the proof', 'enter(machine, event, ROT_VERIFYING);', 'enter(machine, event, ROT_RETIRING);'),
    ('overlooks blocks that are left', 'if (left == 0) {\n        machine->proved', 'if (left < 5) {\n        machine->proved'),
    ('counts the blocks of too few keys', 'if (event->left[i].version <= old_version &&', 'if (event->left[i].version < old_version &&'),
    ('destroys at once', 'saved->retire_upto = kept->old_version;', 'saved->destroy_upto = kept->old_version;'),
    ('destroys the newest key but one too many', 'kept->old_version = facts->highest_version;\n', 'kept->old_version = facts->highest_version + 1;\n'),
    ('begins while one is under way', 'rot_state_is_busy(state) || state == ROT_CHECKING', 'state == ROT_CHECKING'),
    ('the schedule begins while one is under way', 'if (quiet && facts->active_version', 'if (facts->active_version'),
    ('uses a number twice', 'saved->add = true;\n    kept->order++;\n    kept->number++;', 'saved->add = true;\n    kept->order++;'),
    ('takes reports of another order', 'if (event->rotation != now.rotation || event->step != now.step)', 'if (false)'),
    ('takes reports of another step', '|| event->step != now.step)', ')'),
    ('an order goes out before the save', '(void)save(machine, event, actions);\n        enter(machine, event, ROT_PAUSED);',
     'enter(machine, event, ROT_PAUSED);'),
    ('a failure is not written down', '(void)save(machine, event, actions);\n    enter(machine, event, ROT_FAILED);', 'enter(machine, event, ROT_FAILED);'),
    ('cancels while keys are destroyed', 'else if (machine->kept.state == ROT_RETIRING)', 'else if (false)'),
    ('cancels and destroys', '    (void)save(machine, event, actions);\n    enter(machine, event, ROT_CANCELLED);',
     '    save(machine, event, actions)->destroy_upto = kept->old_version;\n    enter(machine, event, ROT_CANCELLED);'),
    ('does not go on after a start', 'if (rot_state_is_busy(kept->state)) {\n        (void)act(actions, ROT_ACTION_WRAP);',
     'if (rot_state_is_busy(kept->state)) {'),
    ('a verify of its own ends a rotation', 'kept->state = kept->before;', 'kept->state = ROT_COMPLETED;'),
    ('overlooks backups', 'if (copies_hold(machine, event, actions))\n        return;', ''),
    ('takes silence for no backups', '(facts->copies_known && facts->retained_copies == 0)', 'facts->retained_copies == 0'),
    ('forces the next rotation, too', 'kept->force = event->force;', ''),
    ('forces by a resume that does not', 'if (event->force && !machine->kept.force) {', 'if (!machine->kept.force) {'),
    ('waits for backups for ever', 'if (machine->kept.force || (facts->copies_known && facts->retained_copies == 0))', 'if (machine->kept.force)'),
    ('never re-encrypts what a proof found', 'kept->returns++;\n    enter(machine, event, ROT_REENCRYPTING);', 'kept->returns++;'),
    ('completes without destroying', 'saved->destroy_upto = kept->old_version;\n', ''),
]


FLAGS = ['-std=gnu11', '-O1', '-w', '-D_GNU_SOURCE', '-I', root, '-pthread', '-fsanitize=address,undefined']


def others(folder):
    """What is the same in all of them, built once."""
    objects = []
    for name in ('main', 'world', 'check'):
        objects.append(os.path.join(folder, name + '.o'))
        subprocess.run([cc, *FLAGS, '-c', os.path.join(root, 'tests/simrot', name + '.c'), '-o', objects[-1]], check=True)
    return objects


def build(folder, text, name, objects):
    source = os.path.join(folder, 'machine.c')
    with open(source, 'w') as out:
        out.write(text)
    program = os.path.join(folder, name)
    subprocess.run([cc, *FLAGS, source, *objects, base, '-o', program], check=True)
    return program


def main():
    with open(SOURCE) as f:
        text = f.read()
    text = text.replace('\r', '')
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        objects = others(folder)
        for i, (what, before, after) in enumerate([('nothing is wrong', '', '')] + MISTAKES):
            if text.count(before) < 1:
                sys.exit(f'mutate: "{what}": its place in machine.c is gone')
            program = build(folder, text.replace(before, after, 1) if before else text, f'sim{i}', objects)
            ran = subprocess.run([program, '--seeds', '1..3000'], capture_output=True, text=True)
            found = ran.returncode != 0
            if found != bool(before):
                missed += 1
            first = (ran.stdout.strip().splitlines() or ran.stderr.strip().splitlines() or [''])[0]
            print(f'{"found " if found else "MISSED" if before else "good  "} {what}: {first}', flush=True)
    sys.exit(1 if missed else 0)


main()
