// Brings a clone up to date: packages, native backend, compiled TypeScript.
//
//   node tools/setup.mjs                all of it
//   node tools/setup.mjs --no-install   leaves node_modules alone (the `prepare` script of `npm install`)
//   node tools/setup.mjs --native       says whether the native backend is built, and from what (an input of nx)
import './lib/check_node.mjs';

const { nativeState, setUp, SetUpError } = await import('./lib/set_up.mjs');

if (process.argv.includes('--native')) console.log(nativeState());
else {
  try {
    const { native, dist } = await setUp({ install: !process.argv.includes('--no-install') });
    console.error(`set up: ${native ? 'native CPU backend' : 'reference backend only'}${dist ? '' : ', from source'}`);
  } catch (error) {
    if (!(error instanceof SetUpError)) throw error;
    console.error(`set-up: ${error.message}`);
    process.exitCode = 1;
  }
}
