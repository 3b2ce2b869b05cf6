/** What every view is given: the service's ends, who one is, language, theme, and where one is. */

import { createContext, useContext } from "./html.js";
import { useStore } from "./store.js";

export const AppContext = createContext(null);

/** The parts that boot.js has put together. */
export const useApp = () => useContext(AppContext);

/** `t("memories.forget", {count: 3})`: a phrase in the language of the page. */
export function usePhrases() {
  const { language } = useApp();
  return useStore(language.phrases);
}
